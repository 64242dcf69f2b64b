"""A device that is none, with faults planted in its rows, and a run of them: needs no torch, so it starts at once.

    python -m tests.benchmarks.fake_gpu serve LOG FAULTS    the worker; notes in LOG each row that it measures
    python -m tests.benchmarks.fake_gpu run FOLDER FAULTS   all rows, as `python -m benchmarks.gpu` runs them

FAULTS is JSON: what happens in a row, by its work.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import runner
from benchmarks.gpu.journal import Journal, Row
from benchmarks.gpu.serve import serve
from detector.bench.processes import Worker

ROOT = Path(__file__).parents[2]
WORKS = tuple("abcdef")
ROWS = [Row("bench", "op", work, name, "nchw") for name in ("ours", "theirs") for work in WORKS]
FACTS = {"of": "build 1", "date": "2000-01-01"}


class FakeDevice:
    def __init__(self, log: Path, faults: dict[str, str]) -> None:
        self._log, self._faults = log, faults
        self._fault: str | None = None

    def facts(self) -> dict[str, Any]:
        return {"name": "Fake GPU", "machine": {"torch": "2.0", "gpu": {"name": "Fake GPU", "cuda": "13.0"}}}

    def fault(self) -> str | None:
        return self._fault

    def measure(self, row: Row) -> dict[str, Any]:
        with self._log.open("a") as file:
            file.write(f"{row.implementation} {row.work} {os.getpid()}\n")
        if self._fault is not None:
            raise RuntimeError(self._fault)
        if row.implementation == "hanging":
            self._happen("hang")
        if row.implementation in ("ours", "cuda"):
            fault = self._faults.get(row.work)
            self._happen(fault)
            if fault == "wrong":
                return {"deviation": 3.0, "wrong": "off by 3, at most 0.1 is right"}
        return {"bytes_per_second": 1e9} if row.op == "memory" else {"ms_per_image": 1.0}

    def _happen(self, fault: str | None) -> None:
        if fault == "hang":
            time.sleep(3600)
        elif fault == "exit":
            os._exit(3)
        elif fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault == "sticky":
            self._fault = "an illegal memory access was encountered"
            raise RuntimeError("launch failed")
        elif fault == "raise":
            raise ValueError("not of this shape")


def start(folder: Path, faults: dict[str, str]) -> Worker:
    command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.benchmarks.fake_gpu"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
    return Worker([*command, "serve", str(folder / "log"), json.dumps(faults)], environment)


def run(folder: Path, faults: dict[str, str], caps: runner.Caps, facts: dict[str, Any] = FACTS) -> None:
    """The rows of `ROWS`, in the journal `folder`/rows.jsonl."""
    journal = Journal(folder / "rows.jsonl", facts, ROWS)
    try:
        runner.run(ROWS, journal, lambda: start(folder, faults), caps, lambda row, outcome: None)
    finally:
        journal.close()


if __name__ == "__main__":
    _, command, place, planted = sys.argv
    if command == "serve":
        serve(FakeDevice(Path(place), json.loads(planted)))
    else:
        run(Path(place), json.loads(planted), runner.Caps(row=600))
