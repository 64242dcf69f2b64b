"""Measures the GPU's ops side by side, and prints the table with the targets.

    python -m benchmarks.gpu smoke     each op in each dtype on tiny images, against the reference: what is wrong
    python -m benchmarks.gpu bench     how fast they are, beside what they replace
    python -m benchmarks.gpu kernels   the CUDA kernels without torch, by build/bench_kernels, and their profiles
    python -m benchmarks.gpu report    the table again, of the journal

    [--results FOLDER] [--device cuda] [--batch 256] [--size 256] [--implementations NAME ...] [--seconds 500]
    [--seconds-a-row 40] [--seconds-an-implementation 150]

In FOLDER are rows.jsonl, the journal, to which each row is appended as soon as it is known; <gpu>-<date>.json, the
results, where sections of other steps are kept; and workers/, what the workers say of themselves. Started again, it
goes on where it was, unless the sources, the extension, the device or the images are others.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import hashlib
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import record
from benchmarks.gpu import plan, programs, report, runner
from benchmarks.gpu.journal import Journal, Row
from detector.bench import works
from detector.bench.processes import Worker

ROOT = Path(__file__).parents[2]
RESULTS_EVERY = 2.0  # seconds at least; the journal has each row
MAX_AUTOTUNE_SECONDS = 120.0  # of a row: torch.compile tries many kernels


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.step == "report":
        return report.main(args.results)
    if args.step == "kernels":
        measure_kernels(args)
    else:
        measure_ops(args)
    return report.main(args.results)


def measure_ops(args: argparse.Namespace) -> None:
    start = functools.partial(worker, args)
    first = start()
    facts = first.ask("facts", None, args.caps.start)
    if "error" in facts:
        first.close()
        sys.exit(f"benchmarks.gpu: {facts['error']}")
    rows = (plan.smoke if args.step == "smoke" else plan.bench)(args.implementations)
    measure(args, rows, facts_of_run(args, facts), start, first)


def measure_kernels(args: argparse.Namespace) -> None:
    ncu, name = programs.find_ncu(), programs.gpu_name()
    try:
        rows = programs.rows(args.program, ncu)
    except (OSError, subprocess.SubprocessError) as error:
        sys.exit(f"benchmarks.gpu: {error}")
    options = ["--images", str(args.batch), "--size", str(args.size)]
    facts = facts_of_run(args, {"name": name, "machine": {"gpu": {"name": name}}})
    measure(
        args, rows, facts, lambda: programs.Programs(args.program, options, ncu, args.results / "ncu")
    )  # fmt: skip


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description="Measure the ops on a GPU, side by side with what they replace."
    )
    parser.add_argument("step", choices=("smoke", "bench", "kernels", "report"))
    parser.add_argument("--results", type=Path, default=record.FOLDER, help="folder (default: %(default)s)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="images of a call (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="their height and width (default: %(default)s)")
    parser.add_argument("--implementations", nargs="+", metavar="NAME", help="what to measure, ours first")
    parser.add_argument("--program", type=Path, default=programs.PROGRAM, help="bench_kernels (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=500, help="for all of it (default: %(default)s)")
    parser.add_argument("--seconds-a-row", type=float, default=40, help="(default: %(default)s)")
    parser.add_argument("--seconds-an-implementation", type=float, default=150, help="(default: %(default)s)")
    parser.add_argument("--seconds-to-start", type=float, default=90, help="a worker (default: %(default)s)")
    args = parser.parse_args(arguments)
    if args.device.type == "cuda" and args.device.index is None:
        args.device = torch.device("cuda", 0)
    args.implementations = args.implementations or plan.implementations(args.device)
    args.caps = runner.Caps(
        args.seconds_to_start, args.seconds_a_row, args.seconds_an_implementation, args.seconds,
        {name: max(args.seconds_a_row, MAX_AUTOTUNE_SECONDS) for name in works.MAX_AUTOTUNE},
    )  # fmt: skip
    return args


def worker(args: argparse.Namespace) -> Worker:
    command = [
        sys.executable, "-m", "benchmarks.gpu.worker", "--device", str(args.device), "--batch", str(args.batch),
        "--size", str(args.size),
    ]  # fmt: skip
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    tuning = {"NPR_TRITON_TUNE": "0"} if args.step == "smoke" else {}
    logs = args.results / "workers"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{args.step}-{len(list(logs.iterdir())) + 1}.log"
    return Worker(command, os.environ | {"PYTHONPATH": path} | tuning, log)


def measure(
    args: argparse.Namespace,
    rows: list[Row],
    facts: dict[str, Any],
    start: Callable[[], runner.Worker],
    first: Worker | None = None,
) -> None:
    journal = Journal(args.results / report.JOURNAL, facts, rows)
    numbers = {row: number for number, row in enumerate(rows, start=1)}
    written = -math.inf

    def tell(row: Row, outcome: dict[str, Any]) -> None:
        nonlocal written
        print(f"{numbers[row]}/{len(rows)}  {row}: {in_short(outcome)}", file=sys.stderr, flush=True)
        if time.monotonic() - written > RESULTS_EVERY:
            report.write(args.results)
            written = time.monotonic()

    try:
        runner.run(rows, journal, start, args.caps, tell, first)
    finally:
        journal.close()


def in_short(outcome: dict[str, Any]) -> str:
    if "wrong" in outcome:
        return f"WRONG, {outcome['wrong']}"
    if "error" in outcome:
        return f"FAILED, {outcome['error']}" + (f"; {outcome['fault']}" if "fault" in outcome else "")
    if "ms_per_image" in outcome:
        return f"{outcome['ms_per_image'] * 1e3:.3g} µs an image"
    if "us" in outcome:
        return f"{outcome['us']:.4g} µs a call"
    return (
        f"{outcome['bytes_per_second'] / 1e9:.0f} GB/s"
        if "bytes_per_second" in outcome
        else outcome.get("said", "right")
    )


def facts_of_run(args: argparse.Namespace, device: dict[str, Any]) -> dict[str, Any]:
    """The head of the run in the journal. `of` tells runs apart whose rows cannot stand for each other's."""
    of = hashlib.sha256(repr((device["name"], torch.__version__, args.batch, args.size)).encode())
    for folder in ("benchmarks", "csrc", "detector/bench", "detector/models", "npr_kernels"):
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".py", ".h", ".cuh", ".cu", ".cpp", ".so"):
                of.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return device | {
        "of": of.hexdigest()[:12],
        "date": datetime.date.today().isoformat(),
        "input": f"{args.batch} images of {args.size}x{args.size}",
        "batch": args.batch,
        "size": args.size,
        "ours": args.implementations[0],
    }


if __name__ == "__main__":
    sys.exit(main())
