"""The table of a results file, in Markdown: times, ratios to the baseline, and how close to the floor.

    python -m benchmarks.table benchmarks/results/<file>.json

A ratio compares times of the same run, setting and layout of the images. The floor of a row is the larger of its
multiply-adds over the measured peak and its bytes over the measured copy bandwidth.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

OURS = "npr"  # the implementation that the others are compared with


def markdown(results: dict[str, Any]) -> str:
    settings = list(dict.fromkeys(row["setting"] for row in results["results"]))
    groups = list(dict.fromkeys((row["op"], row["work"]) for row in results["results"]))
    parts = [heading(results)]
    for op, work in groups:
        rows = [row for row in results["results"] if (row["op"], row["work"]) == (op, work)]
        parts.append(group_table(f"{op}: {work}", rows, settings, results["floors_per_second"]))
    return "\n\n".join(parts)


def heading(results: dict[str, Any]) -> str:
    machine, floors = results["machine"], results["floors_per_second"]
    load = results["load_average"]
    peak = f"{floors['multiply_adds'] / 1e9:.0f} G multiply-adds/s" if floors["multiply_adds"] else "not measured"
    return (
        f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}, torch {machine['torch']}, "
        f"{results['date']}; {results['input']}; median ms an image of {results['repeats']} runs. "
        f"Load average {load['least']} to {load['most']}. "
        f"Floors: {peak}, {floors['bytes'] / 1e9:.0f} GB/s copied."
    )


def group_table(title: str, rows: list[dict[str, Any]], settings: list[str], floors: dict[str, float | None]) -> str:
    times = {(row["setting"], row["implementation"], row["layout"]): row["ms_per_image"] for row in rows}
    names = sorted(
        {(row["implementation"], row["layout"]) for row in rows}, key=lambda name: (name[1] != "nchw", name[0])
    )
    floor = floor_ms(rows[0], floors)
    lines = [
        f"| {title} | " + " | ".join(f"{s}, ms | {OURS} is faster by | of the floor" for s in settings) + " |",
        "|---|" + "---:|---:|---:|" * len(settings),
    ]
    for name, layout in names:
        cells = []
        for setting in settings:
            time, ours = times.get((setting, name, layout)), times.get((setting, OURS, layout))
            if time is None:
                cells += ["not measured", "", ""]
                continue
            ratio = f"{time / ours:.1f}x" if ours and name != OURS else ""
            cells += [f"{time:.2f}", ratio, f"{100 * floor / time:.0f} %" if floor else ""]
        lines.append(f"| {name}, {layout} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def floor_ms(row: dict[str, Any], floors: dict[str, float | None]) -> float:
    """Least time of an image in ms, or 0 where no floor was measured."""
    return 1e3 * max(row.get(cost, 0) / rate for cost, rate in floors.items() if rate)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.table RESULTS.json")
    print(markdown(json.loads(Path(sys.argv[1]).read_text())))
