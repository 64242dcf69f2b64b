"""The results file of a journal: rows by section, bandwidths, targets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from benchmarks import record, table, targets
from benchmarks.gpu import journal, plan
from benchmarks.gpu.journal import Row
from detector.bench import floors

JOURNAL = "rows.jsonl"
SETTING = "warm"
SECTIONS = {"smoke": "smoke", "kernels": "kernels", "bench": "results"}


def write(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Brings the results file in a folder up to its journal; where it is, and what is in it.

    Raises:
        ValueError: there is no journal, or nothing in it.
    """
    runs = journal.read(folder / JOURNAL)
    if not runs:
        raise ValueError(f"{folder / JOURNAL} tells of no run")
    facts = runs[-1].facts
    sections: dict[str, Any] = {name: facts[name] for name in ("date", "machine", "input", "ours")}
    rows: dict[str, list[dict[str, Any]]] = {"memory": [], **{name: [] for name in SECTIONS.values()}}
    for run in runs:
        for row in run.rows():
            name = "memory" if row["op"] == plan.MEMORY else SECTIONS[row["step"]]
            rows[name] = record.merge(rows[name], [costs(run.facts, row) | row])
    out = record.path(facts["name"], folder)
    merged = record.merged(out, sections | rows)
    merged["floors_per_second"] = dict.fromkeys(floors.BANDWIDTHS) | {
        row["work"]: row["bytes_per_second"] for row in merged["memory"] if "bytes_per_second" in row
    }
    merged["targets"] = targets.judge(merged)
    return out, record.write(out, merged)


def costs(facts: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """What an image of the row costs: bytes, those written and those read."""
    if row["step"] != "bench" or row["op"] == plan.MEMORY:
        return {}
    work, size = plan.work_of(Row(*(row[name] for name in Row._fields))), facts["size"]
    arguments = size, size, work.dtype.itemsize
    total, written = work.bytes(*arguments), work.written(*arguments)
    return {
        "setting": SETTING, "images": facts["batch"], "bytes": total, "written": written, "read": total - written
    }  # fmt: skip


def failed(results: dict[str, Any], ours: str) -> bool:
    """Whether a kernel of ours is wrong or was not measured."""
    rows = [row for name in record.ROWS for row in results.get(name, [])]
    return any(("error" in row or "wrong" in row) and row["implementation"].startswith(ours) for row in rows)


def main(folder: Path) -> int:
    try:
        out, results = write(folder)
    except ValueError as error:
        sys.exit(f"benchmarks.gpu: {error}")
    print(table.markdown(results))
    print(f"\nwritten to {out}", file=sys.stderr)
    return int(failed(results, results["ours"]))
