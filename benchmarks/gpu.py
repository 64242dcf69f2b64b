"""Measures the GPU's ops side by side, and prints the table with the targets.

    python -m benchmarks.gpu [--minutes 8] [--out results.json] [--device cuda] [--batch 256] [--size 256]

Each implementation runs in a process of its own, so that one that fails costs its own rows, and leaves each row in a
file as soon as it is measured; what ran out of time or failed says so in its row. Kernels are compiled and tuned before
the clock runs. Results go to benchmarks/results/<gpu>-<date>.json, where sections of other steps are kept.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import record, table, targets
from detector.bench import floors, machine, timing, works

ROOT = Path(__file__).parents[1]
SETTING = "warm"
ROUNDS = 5


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    if args.rows is not None:
        measure(args.implementations[0], args)
        return 0
    if args.device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks.gpu: torch sees no CUDA device")
    out = args.out or record.path(args.device)
    ours = args.implementations[0]
    results = {
        "date": datetime.date.today().isoformat(),
        "machine": describe(args.device),
        "input": f"{args.batch} images of {args.size}x{args.size}",
        "ours": ours,
        "floors_per_second": {"bytes": None},
        "results": [],
    }
    deadline = time.monotonic() + 60 * args.minutes
    bandwidths = []
    for implementation in args.implementations:
        print(f"{implementation} ...", file=sys.stderr, flush=True)
        rows, bandwidth = measured_apart(implementation, args, deadline)
        results["results"] += rows
        bandwidths += [bandwidth] if bandwidth else []
        results["floors_per_second"]["bytes"] = max(bandwidths, default=None)
        results["targets"] = targets.judge(results)
        if args.device.type == "cuda":
            results["machine"]["gpu"]["state_after"] = machine.nvidia_smi(args.device)
        record.update(out, results)
    print(table.markdown(results))
    print(f"\nwritten to {out}", file=sys.stderr)
    return int(any("error" in row for row in results["results"] if row["implementation"] == ours))


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the ops on a GPU, side by side with what they replace.")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"), help="(default: %(default)s)")
    parser.add_argument("--batch", type=int, default=256, help="images of a call (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="their height and width (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=8, help="time for all of it (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/<gpu>-<date>.json)")
    parser.add_argument("--implementations", nargs="+", metavar="NAME", help="what to measure, ours first")
    parser.add_argument("--rows", type=Path, help=argparse.SUPPRESS)  # measures here, into this file
    args = parser.parse_args(arguments)
    args.device = with_index(args.device)
    fused = ["cuda", "triton"] if args.device.type == "cuda" else ["cpu"]
    args.implementations = args.implementations or [*fused, "eager", *works.MAX_AUTOTUNE]
    return args


def with_index(device: torch.device) -> torch.device:
    return torch.device("cuda", 0) if device.type == "cuda" and device.index is None else device


def describe(device: torch.device) -> dict[str, Any]:
    description = machine.describe(torch.get_num_threads())
    return description | ({"gpu": machine.describe_gpu(device)} if device.type == "cuda" else {})


# ---- One implementation, in a process of its own --------------------------------------------------------------------


def plan(implementation: str) -> Iterator[tuple[works.Work, str]]:
    """The works that are measured for an implementation, each with a layout of the images.

    torch.compile chooses layouts itself, and its backward passes cannot be run twice, as measuring one alone needs.
    The detectors differ in their stem only.
    """
    compiles = implementation in works.MAX_AUTOTUNE
    for work in works.WORKS:
        if compiles and (work.name == "weight gradient" or work.op == "NPRDetector"):
            continue
        yield work, "channels_last"
        if not compiles and work.op != "NPRDetector":
            yield work, "nchw"


def measured_apart(
    implementation: str, args: argparse.Namespace, deadline: float
) -> tuple[list[dict[str, Any]], float | None]:
    """A row for each of the plan, and the bandwidth that was measured beside them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        command = [
            sys.executable, "-m", "benchmarks.gpu", "--implementations", implementation, "--rows", str(file),
            "--device", str(args.device), "--batch", str(args.batch), "--size", str(args.size),
        ]  # fmt: skip
        try:
            status = subprocess.run(
                command, cwd=ROOT, stdout=sys.stderr, timeout=max(1.0, deadline - time.monotonic())
            ).returncode
            reason = f"its process ended with status {status}"
        except subprocess.TimeoutExpired:
            reason = "out of time"
        lines = file.read_text().splitlines() if file.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]  # a killed process may leave half a line
    bandwidth = next((record["bytes_per_second"] for record in records if "bytes_per_second" in record), None)
    rows = {(row["op"], row["work"], row["layout"]): row for row in records if "op" in row}
    return [
        rows.get((work.op, work.title, layout), head(implementation, work, layout, args) | {"error": reason})
        for work, layout in plan(implementation)
    ], bandwidth


def head(implementation: str, work: works.Work, layout: str, args: argparse.Namespace) -> dict[str, Any]:
    return {
        "setting": SETTING,
        "op": work.op,
        "work": work.title,
        "implementation": implementation,
        "layout": layout,
        "images": args.batch,
        "bytes": work.bytes(args.size, args.size, work.dtype.itemsize),
    }


def measure(implementation: str, args: argparse.Namespace) -> None:
    """Appends to the file of rows the bandwidth, then each row of the plan."""
    on_gpu = args.device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(args.device)
    with args.rows.open("a") as file:

        def append(facts: dict[str, Any]) -> None:
            file.write(json.dumps(facts) + "\n")
            file.flush()

        append({"bytes_per_second": floors.copy_bandwidth(args.device, megabytes=2048 if on_gpu else 16)})
        rotation = draw_rotation(args)
        for work, layout in plan(implementation):
            row = head(implementation, work, layout, args)
            images = [batch.contiguous(memory_format=works.LAYOUTS[layout]) for batch in rotation]
            try:
                row |= times(works.Case(implementation, layout, work.dtype, images), work)
            except Exception as error:  # a failure is a result
                row["error"] = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
            append(row)
            print(f"  {work.op}: {work.title}, {layout}: {outcome(row)}", file=sys.stderr, flush=True)


def outcome(row: dict[str, Any]) -> str:
    return row.get("error") or f"{row['ms_per_image'] * 1e3:.3g} µs an image"


def draw_rotation(args: argparse.Namespace) -> list[torch.Tensor]:
    """Batches of random images, together at least four times the GPU's second-level cache."""
    one = args.batch * works.CHANNELS * args.size**2
    cache = torch.cuda.get_device_properties(args.device).L2_cache_size if args.device.type == "cuda" else 0
    generator = torch.Generator(args.device).manual_seed(0)
    shape = (args.batch, works.CHANNELS, args.size, args.size)
    return [
        torch.randint(0, 256, shape, dtype=torch.uint8, device=args.device, generator=generator)
        for _ in range(max(2, math.ceil(4 * cache / one)))
    ]


def times(case: works.Case, work: works.Work) -> dict[str, Any]:
    with case.backend():
        call = work.prepare(case)
        calls = 2 if work.op == "NPRDetector" else 10
        seconds = sorted(timing.seconds(call, case.device, rounds=ROUNDS, calls=calls))
    milliseconds = [1e3 * each / len(case.images[0]) for each in seconds]
    return {
        "ms_per_image": statistics.median(milliseconds),
        "of": [milliseconds[0], milliseconds[-1]],
        "calls": len(milliseconds),
    }


if __name__ == "__main__":
    sys.exit(main())
