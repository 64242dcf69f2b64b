"""Results files: what was measured, on which machine, as JSON."""

from __future__ import annotations

import datetime
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from detector.bench import calls, floors, machine
from detector.bench.cases import Case
from detector.bench.frame import Effort, measure
from detector.bench.processes import SETTINGS, Workers
from detector.files import write_text

SCHEMA = "npr bench 1"

_RIVALS = ("onnx", "onnxruntime", "openvino", "nncf")  # whose versions decide about speed, besides torch's


def run(cases: Sequence[Case], effort: Effort, threads: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Measures the cases in both settings of the allocator.

    Returns:
        The content of a results file: schema, date, machine, threads, versions of the rivals, load_average while it was
        measured, floors_per_second, and the rows of :func:`detector.bench.frame.measure`, with floor_ms, the time in
        which the machine could do an image at best, where that is known.
    """
    before = floors.measure(threads)
    with tempfile.TemporaryDirectory() as folder, Workers(threads, Path(folder)) as workers:
        rows, loads = measure(cases, list(SETTINGS), workers, effort, report)
    after = floors.measure(threads)
    per_second = {name: max((rate for rate in (before[name], after[name]) if rate), default=None) for name in before}
    of = {(case.kind, case.work, case.batch, case.size): case for case in cases}
    for row in rows:
        case = of[row["kind"], row["work"], row["batch"], row["size"]]
        row["floor_ms"] = floors.floor_ms(calls.costs(case, row["implementation"]), per_second)
    return {
        "schema": SCHEMA,
        "date": datetime.date.today().isoformat(),
        "machine": machine.describe(threads),
        "rivals": {name: _version(name) for name in _RIVALS},
        "load_average": {"least": round(min(loads), 1), "most": round(max(loads), 1)} if loads else None,
        "floors_per_second": per_second,
        "results": rows,
    }


def write(path: str | os.PathLike[str], results: dict[str, Any]) -> None:
    write_text(path, as_text(results))


def as_text(results: dict[str, Any]) -> str:
    return json.dumps(results, indent=1) + "\n"


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The content of a results file.

    Raises:
        OSError: it cannot be read. ValueError: it is none.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no results file of npr bench: {error}") from error
    found = results.get("schema") if isinstance(results, dict) else None
    if found != SCHEMA:
        raise ValueError(f"{path} is no results file of npr bench: its schema is {found!r}, not {SCHEMA!r}")
    return results


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
