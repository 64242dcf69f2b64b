"""Runs small_run under compute-sanitizer's tools, and notes in the results file, one by one, what each found.

    python -m tests.npr_kernels.cuda.sanitize [--results FOLDER] [--seconds 480]

Only the package's kernels are watched: those of torch read memory that they do not use, which initcheck reports.
Torch's caching allocator is switched off, since memory that it has handed out before looks valid and written. Where a
tool is missing or cannot watch the device, the note says "not run" and why, and the exit status is 0; it is 1 where a
tool found an error, or the run fails without any tool. Logs go to FOLDER/sanitizer.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks import record
from tests.npr_kernels.cuda.small_run import DONE, READY

ROOT = Path(__file__).parents[3]
TOOLS = ("memcheck", "synccheck", "initcheck", "racecheck")

OPTIONS = {"memcheck": ["--report-api-errors", "no"]}  # the package checks its own calls; torch probes what may fail
FOUND = 86  # exit status of a tool that found an error
COMMAND = [sys.executable, "-m", "tests.npr_kernels.cuda.small_run"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Run the CUDA kernels under compute-sanitizer.")
    parser.add_argument("--results", type=Path, default=record.FOLDER, help="folder (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=480, help="for all tools (default: %(default)s)")
    args = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        sys.exit("sanitize: torch sees no CUDA device")
    logs = args.results / "sanitizer"
    logs.mkdir(parents=True, exist_ok=True)
    file = record.path(torch.cuda.get_device_name(), args.results)
    deadline = time.monotonic() + args.seconds
    outcomes: dict[str, str] = {}

    def note(tool: str, outcome: str) -> None:
        outcomes[tool] = outcome
        record.update(file, {"sanitizer": outcomes})
        print(f"{tool}: {outcome}", flush=True)

    reason = unsanitized(args.seconds)
    if reason is not None:
        note("without a tool", reason)
    else:
        for tool in TOOLS:
            note(tool, run(tool, max(1.0, deadline - time.monotonic()), logs))
    print(f"logs in {logs}")
    return int(any(outcome.startswith("failed") for outcome in outcomes.values()))


def unsanitized(seconds: float) -> str | None:
    """What is wrong with the run without any tool; None if nothing is."""
    try:
        alone = subprocess.run(COMMAND, cwd=ROOT, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return "failed: out of time"
    return None if DONE in alone.stdout else f"failed: {last_line(alone.stdout + alone.stderr)}"


def sanitizer() -> str | None:
    """compute-sanitizer on PATH or in the CUDA toolkit."""
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    folders = [os.environ.get("PATH", ""), f"{home}/bin", f"{home}/compute-sanitizer"]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def run(tool: str, seconds: float, logs: Path) -> str:
    """What a tool found: "passed", "failed: ..." or "not run: ..."."""
    program = sanitizer()
    if program is None:
        return "not run: compute-sanitizer was not found"
    command = [
        program, "--tool", tool, "--kernel-name", "kns=3npr4cuda", "--error-exitcode", str(FOUND),
        *OPTIONS.get(tool, []), *COMMAND,
    ]  # fmt: skip
    log = logs / f"{tool}.log"
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        with log.open("w") as file:
            status = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, timeout=seconds
            ).returncode
    except subprocess.TimeoutExpired:
        return "not run: out of time"
    return judge(status, log.read_text(errors="replace"))


def judge(status: int, log: str) -> str:
    if status == 0 and DONE in log:
        return "passed"
    if READY not in log or "Device not supported" in log:
        return f"not run: {reason(log)}"
    return f"failed: {reason(log)}"


def reason(log: str) -> str:
    """The line that says it: the tool's summary, or what it or the program said last."""
    lines = [line.strip("= \n") for line in log.splitlines() if line.startswith("=====") or "Error" in line]
    for wanted in ("Device not supported", "SUMMARY"):
        for line in lines:
            if wanted in line and "0 errors" not in line:
                return line
    return lines[-1] if lines else last_line(log)


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "no output")


if __name__ == "__main__":
    sys.exit(main())
