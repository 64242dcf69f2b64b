"""The table of a results file, in Markdown: times, ratios to the baseline, and how close to the floor.

    python -m benchmarks.table benchmarks/results/<file>.json

A ratio compares times of the same run, setting and layout of the images. The floor of a row is the larger of its
multiply-adds over the measured peak and its bytes over the measured copy bandwidth, and, where these were measured, of
what it writes over the bandwidth of writing alone and what it reads over that of reading alone.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detector.bench import floors
from detector.bench.results import SCHEMA
from detector.bench.table import as_tables


def markdown(results: dict[str, Any]) -> str:
    settings = list(dict.fromkeys(row["setting"] for row in results["results"]))
    groups = list(dict.fromkeys((row["op"], row["work"]) for row in results["results"]))
    parts = [heading(results)]
    for op, work in groups:
        rows = [row for row in results["results"] if (row["op"], row["work"]) == (op, work)]
        parts.append(group_table(f"{op}: {work}", rows, settings, results))
    parts += [failures(results), smoke(results), kernels_table(results), targets_table(results), steps_table(results)]
    return "\n\n".join(part for part in parts if part)


def ours(results: dict[str, Any]) -> str:
    """The implementation that the others are compared with."""
    return results.get("ours", "npr")


def unit(results: dict[str, Any]) -> tuple[str, float]:
    """The times' unit, and how many of it a millisecond is."""
    longest = max((row.get("ms_per_image", 0) for row in results["results"]), default=0)
    return ("ms", 1) if longest > 1 else ("µs", 1e3)


def heading(results: dict[str, Any]) -> str:
    machine, per_second = results["machine"], results["floors_per_second"]
    if gpu := machine.get("gpu"):
        driver = gpu.get("state", {}).get("driver_version", "unknown")
        where = f"{gpu['name']}, driver {driver}, CUDA {gpu.get('cuda')}"
        software = f"torch {machine.get('torch')}, Triton {gpu.get('triton')}"
    else:
        where = f"{machine['cpu']}, {machine['threads']} threads, {machine['instruction_set']}"
        software = f"torch {machine['torch']}"
    times = f"median {unit(results)[0]} an image" + (f" of {results['repeats']} runs" if "repeats" in results else "")
    sentences = [f"{where}, {software}, {results['date']}; {results['input']}; {times}."]
    if load := results.get("load_average"):
        sentences.append(f"Load average {load['least']} to {load['most']}.")
    peaks = []
    if "multiply_adds" in per_second:
        peak = per_second["multiply_adds"]
        peaks.append(f"{peak / 1e9:.0f} G multiply-adds/s" if peak else "not measured")
    peaks.append(f"{per_second['bytes'] / 1e9:.0f} GB/s copied" if per_second["bytes"] else "copies not measured")
    peaks += [f"{per_second[kind] / 1e9:.0f} {kind}" for kind in ("written", "read") if per_second.get(kind)]
    return " ".join([*sentences, f"Floors: {', '.join(peaks)}."])


def group_table(title: str, rows: list[dict[str, Any]], settings: list[str], results: dict[str, Any]) -> str:
    name_of_unit, factor = unit(results)
    base = ours(results)
    times = {
        (row["setting"], row["implementation"], row["layout"]): row["ms_per_image"]
        for row in rows
        if "ms_per_image" in row
    }
    wrong = {(row["setting"], row["implementation"], row["layout"]) for row in rows if "wrong" in row}
    names = sorted(
        {(row["implementation"], row["layout"]) for row in rows}, key=lambda name: (name[1] != "nchw", name[0])
    )
    floor = floors.floor_ms(rows[0], results["floors_per_second"])
    columns = [f"{setting}, {name_of_unit} | {base} is faster by | of the floor" for setting in settings]
    lines = [
        f"| {title} | {' | '.join(columns)} |",
        "|---|" + "---:|---:|---:|" * len(settings),
    ]
    for name, layout in names:
        cells = []
        for setting in settings:
            time, our_time = times.get((setting, name, layout)), times.get((setting, base, layout))
            if time is None:
                cells += ["wrong" if (setting, name, layout) in wrong else "not measured", "", ""]
                continue
            ratio = f"{time / our_time:.1f}x" if our_time and name != base else ""
            cells += [f"{time * factor:.2f}", ratio, f"{100 * floor / time:.0f} %" if floor else ""]
        lines.append(f"| {name}, {layout} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(results: dict[str, Any]) -> str:
    """Why rows were not measured, each reason once, and what is wrong with the others that have no time."""
    return "\n".join([
        *reasons(results["results"], "Not measured", "error", lambda row: f"{row['op']} {row['work']}"),
        *reasons(results["results"], "Wrong", "wrong", lambda row: f"{row['op']} {row['work']} {row['layout']}"),
    ])  # fmt: skip


def reasons(rows: list[dict[str, Any]], head: str, kind: str, name: Callable[[dict[str, Any]], str]) -> list[str]:
    by_reason: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if kind in row:
            reason = row[kind] + (f" ({row['fault']})" if "fault" in row else "")
            by_reason.setdefault((row["implementation"], reason), []).append(name(row))
    return [f"{head}: {of}, {', '.join(dict.fromkeys(names))}: {why}" for (of, why), names in by_reason.items()]


def smoke(results: dict[str, Any]) -> str:
    """What of the ops is right on tiny images, and the names of what is not."""
    rows = results.get("smoke", [])
    if not rows:
        return ""
    right = sum("error" not in row and "wrong" not in row for row in rows)
    lines = [f"Smoke: {right} of {len(rows)} ops, dtypes and layouts are right."]
    for head, kind in (("Wrong", "wrong"), ("Failed", "error")):
        lines += reasons(rows, head, kind, lambda row: f"{row['work']} {row['layout']}")
    return "\n".join(lines)


def kernels_table(results: dict[str, Any]) -> str:
    """The kernels by themselves, without torch."""
    rows = results.get("kernels", [])
    if not rows:
        return ""
    lines = ["| bench_kernels | µs a call | least to most | GB/s |", "|---|---:|---:|---:|"]
    for row in rows:
        if "us" in row:
            least, most = row["of"]
            rate = f"{row['bytes'] / row['us'] / 1e3:.0f}" if row.get("bytes") else ""
            lines.append(f"| {row['work']} | {row['us']:.1f} | {least:.1f} to {most:.1f} | {rate} |")
        else:
            lines.append(f"| {row['work']} | {row.get('wrong') or row.get('error') or row.get('said', '')} | | |")
    return "\n".join(lines)


def targets_table(results: dict[str, Any]) -> str:
    if not results.get("targets") or not results["results"]:
        return ""
    lines = ["| target (channels_last) | measure | wanted | reached | |", "|---|---|---:|---:|---|"]
    for target in results["targets"]:
        reached = "not measured" if target["reached"] is None else f"{target['reached']:.2f}"
        verdict = {None: "", True: "met", False: "missed"}[target["met"]]
        lines.append(
            f"| {target['op']}: {target['work']} | {target['measure']} | {target['wanted']:g} | {reached} | {verdict} |"
        )
    return "\n".join(lines)


def steps_table(results: dict[str, Any]) -> str:
    """What the tests and compute-sanitizer's tools found."""
    lines = []
    for section, title in (("tests", "GPU tests"), ("sanitizer", "compute-sanitizer")):
        if results.get(section):
            lines += [f"| {title} | |", "|---|---|"]
            lines += [f"| {name} | {outcome} |" for name, outcome in results[section].items()] + [""]
    return "\n".join(lines).strip()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.table RESULTS.json")
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print(as_tables(content) if content.get("schema") == SCHEMA else markdown(content))
