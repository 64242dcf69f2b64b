"""Runs the tests that need a GPU, and notes in the results file what became of them, also of a run that is ended.

    python -m tests.npr_kernels.cuda.gpu_tests [--results FOLDER] [--seconds 240] [--jobs N]

With pytest-xdist they run in several processes, and one that has a fault or hangs is replaced (tests/gpu_faults.py).
Those that need most of the device's memory, which are a group of their own, run one after the other at the end. The
log, with a line for each test, is FOLDER/tests.log.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import record

ROOT = Path(__file__).parents[3]
PLACES = ("tests/npr_kernels", "tests/detector/models")
_LINE = re.compile(
    r"^(?:\[gw\d+\] \[ *\d+%\] (?P<before>[A-Z]+) )?(?P<test>\S+::.+?)(?: (?P<after>[A-Z]+)\b.*)?\s*$", re.MULTILINE
)
_OUTCOMES = ("PASSED", "FAILED", "ERROR", "SKIPPED")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the tests that need a GPU.")
    parser.add_argument("--results", type=Path, default=record.FOLDER, help="folder (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=240, help="for all of them (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("gpu_tests: torch sees no CUDA device")
    args.results.mkdir(parents=True, exist_ok=True)
    log = args.results / "tests.log"
    log.unlink(missing_ok=True)
    deadline = time.monotonic() + args.seconds
    outcomes: dict[str, str] = {}
    for marks, jobs in (("gpu and not xdist_group", args.jobs), ("gpu and xdist_group", 1)):
        status = run(command(marks, jobs), log, max(1.0, deadline - time.monotonic()))
        outcomes |= {f"-m {marks!r}": "out of time" if status is None else f"ended with status {status}"}
    outcomes |= summary(log.read_text(errors="replace"))
    record.update(record.path(torch.cuda.get_device_name(), args.results), {"tests": outcomes})
    for name, outcome in outcomes.items():
        print(f"{name}: {outcome}")
    print(f"log in {log}")
    return int(outcomes.get("passed") is None or any(name in outcomes for name in ("failed", "error")))


def command(marks: str, jobs: int) -> list[str]:
    """Not with --dist loadgroup, under which pytest-xdist (3.8) waits for ever once it has replaced a process."""
    parallel = ["-n", str(jobs), "--dist", "load"] if importlib.util.find_spec("xdist") else []
    return [sys.executable, "-m", "pytest", "-v", "-m", marks, "-p", "no:cacheprovider", *parallel, *PLACES]


def run(command: list[str], log: Path, seconds: float) -> int | None:
    """The status of pytest, whose output goes behind what is in the log; None if it was ended for being late."""
    with log.open("a") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # with the processes that it has started
                process.wait()


def summary(log: str) -> dict[str, str]:
    """How many tests passed and so on, and which failed, by pytest's lines of them, with or without pytest-xdist."""
    of: dict[str, str] = {}
    for line in _LINE.finditer(log):
        outcome = line["before"] or line["after"]
        if outcome in _OUTCOMES:
            of[line["test"]] = outcome if of.get(line["test"]) not in ("FAILED", "ERROR") else of[line["test"]]
    counts = {name: sum(outcome == name for outcome in of.values()) for name in _OUTCOMES}
    summed = {name.lower(): str(count) for name, count in counts.items() if count}
    failures = {test: outcome.lower() for test, outcome in of.items() if outcome in ("FAILED", "ERROR")}
    return summed | failures


if __name__ == "__main__":
    sys.exit(main())
