"""`npr scan` beside `npr detect` on the same files: what the engine costs, in processor time and by the clock.

    python -m benchmarks.scan PHOTOGRAPHS [--files 5000] [--side 256] [--rounds 2] [-- ARGUMENTS OF NPR SCAN]

Cuts squares out of the photographs, as JPEG, scores them by turns with both commands, and prints a row for each run:
the processor time of all processes that the command started, however far down, the clock's, and their ratios. The
machine may do other work meanwhile; processor time is little moved by it. `--processes` adds what each kind of process
took, and how many there were. Linux alone: processes are told apart by /proc.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from detector.data import IMAGE_SUFFIXES

_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_BETWEEN_LOOKS = 0.2
"""What a process does after the last look at it is not seen: half of this at most, on average."""

_TICK = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """Of one run.

    Attributes:
        clock: seconds until the command had ended.
        processor: seconds of each process that it started, user and system, by the process's name.
    """

    clock: float = 0.0
    processor: dict[str, list[float]] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(map(sum, self.processor.values()))


def cut(photographs: Path, folder: Path, count: int, side: int, draw: random.Random) -> None:
    """Squares at random places of the photographs, one photograph after the other, as JPEGs of quality 90."""
    paths = sorted(path for path in photographs.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    images = [Image.open(path).convert("RGB") for path in paths]
    images = [image for image in images if min(image.size) >= side]
    if not images:
        raise SystemExit(f"{photographs} has no photograph of {side} pixels a side")
    folder.mkdir()
    for number in range(count):
        image = images[number % len(images)]
        left, top = (draw.randint(0, length - side) for length in image.size)
        image.crop((left, top, left + side, top + side)).save(folder / f"{number:06}.jpg", quality=90)


def measured(command: list[str], output: Path) -> Cost:
    """Runs the command, its standard output to the file, and waits for all that it started."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what Ray leaves behind comes to this process
    cost, seen = Cost(), {}
    begun = time.monotonic()
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file)
    while True:
        below = list(_descendants())
        for key, name, seconds in below:
            seen[key] = name or seen.get(key, (name,))[0], seconds  # one that has ended is without a name
        ended = process.poll() is not None
        if ended and not cost.clock:
            cost.clock = time.monotonic() - begun
        _reap(process.pid)
        if ended and not below:
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit status {process.returncode}")
    for name, seconds in seen.values():
        cost.processor.setdefault(name, []).append(seconds)
    return cost


def _descendants() -> Iterator[tuple[tuple[int, str], str, float]]:
    """Of this process: who each is (for a number may be given again), its name, and its seconds so far."""
    parents, found = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:  # ended
            continue
        _, parent, *numbers = text.rsplit(")", 1)[1].split()  # from the fifth of proc(5)'s fields on
        pid = int(path.parent.name)
        parents[pid] = int(parent)
        found[pid] = (pid, numbers[17]), (int(numbers[9]) + int(numbers[10])) * _TICK
    for pid, (key, seconds) in found.items():
        above = pid
        while above > 1:
            above = parents.get(above, 0)
            if above == os.getpid():
                yield key, _name(pid), seconds
                break


def _name(pid: int) -> str:
    """ray::_Actor, gcs_server, agent.py, ..., python for the command itself; "" of one that has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        words = [""]
    named = [word for word in words[:4] if word.endswith(".py") or word.startswith("ray::")]
    return Path((named or words)[0]).name


def _reap(command: int) -> None:
    """Takes leave of orphans that have ended; the command is its Popen's."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid == command:
            return
        os.waitpid(ended.si_pid, 0)


def main() -> int:
    parser = argparse.ArgumentParser(description="npr scan beside npr detect on the same files")
    parser.add_argument("photographs", type=Path, help="folder")
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--side", type=int, default=256, help="in pixels")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--processes", action="store_true", help="print what each kind of process took")
    parser.add_argument("--place", type=Path, help="folder for the files, kept (default: a temporary one)")
    parser.add_argument("scan", nargs="*", help="arguments of npr scan, after --")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = args.place or Path(temporary)
        files, out = place / f"files-{args.side}-{args.files}", Path(temporary) / "out"
        if not files.exists():
            place.mkdir(parents=True, exist_ok=True)
            cut(args.photographs, files, args.files, args.side, random.Random(0))
        npr = [sys.executable, "-m", "detector.cli"]
        commands = {
            "detect": [*npr, "detect", str(files), "--json", "--facts"],
            "scan": [*npr, "scan", str(files), "--out", str(out), *args.scan],
        }
        print(f"{args.files} files\n{'':8}{'processor s':>12}{'ratio':>8}{'clock s':>10}{'ratio':>8}")
        for number in range(args.rounds):
            costs = {}
            for name in list(commands)[:: -1 if number % 2 else 1]:
                shutil.rmtree(out, ignore_errors=True)
                costs[name] = measured(commands[name], Path(temporary) / "said")
            base = costs["detect"]
            for name, cost in costs.items():
                ratios = f"{cost.total / base.total:8.3f}{cost.clock:10.1f}{cost.clock / base.clock:8.3f}"
                print(f"{name:8}{cost.total:12.1f}{ratios}", flush=True)
                if args.processes:
                    for kind, seconds in sorted(cost.processor.items(), key=lambda item: -sum(item[1])):
                        print(f"{'':8}{sum(seconds):12.1f}  {len(seconds)} {kind}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
