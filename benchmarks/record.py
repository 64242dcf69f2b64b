"""Results files: one for each machine and day, in sections that different steps write."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

from detector.bench import machine
from detector.files import write_text

FOLDER = Path(__file__).with_name("results")

ROWS = ("results", "smoke", "kernels", "memory")
"""Sections that are lists of rows, which are merged one by one."""

KEY = ("op", "work", "implementation", "layout")


def path(device: str, folder: Path = FOLDER) -> Path:
    """The results file of a device, by its name, today."""
    return folder / f"{machine.slug(device)}-{datetime.date.today().isoformat()}.json"


def update(path: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """Writes :func:`merged` to the file, and returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return write(path, merged(path, sections))


def write(path: Path, results: dict[str, Any]) -> dict[str, Any]:
    write_text(path, json.dumps(results, indent=1) + "\n")
    return results


def merged(path: Path, sections: dict[str, Any]) -> dict[str, Any]:
    """What is in a results file, which need not exist, with sections replaced.

    Of the sections in ROWS only rows with the same KEY are replaced, and a row that was not reached replaces none.
    """
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    rows = {name: merge(before.get(name, []), new) for name, new in sections.items() if name in ROWS}
    return before | sections | rows


def merge(before: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    by_key = {key_of(row): row for row in before}
    for row in rows:
        if "left" not in row or key_of(row) not in by_key:
            by_key[key_of(row)] = row
    return list(by_key.values())


def key_of(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name] for name in KEY)
