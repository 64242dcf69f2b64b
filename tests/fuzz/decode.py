"""Feeds mutated image files to the decoder: whatever the bytes, an image comes out, or an ImageError of one line.

It does so within seconds, and no library writes a word of its own on standard output or standard error.

    python -m tests.fuzz.decode [--seconds 60] [--count N] [--seed N] [FILE ...]

With atheris installed its coverage leads the mutations, from the same files; otherwise a loop draws them from a seed,
which it prints. What fails is kept in build/fuzz, and is run again where it is given as FILE. An input that ends the
process, or that does not end, is there too, as build/fuzz/last.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import importlib.util
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from detector.data import ImageError, decode
from detector.evaluation.encodings import encoding
from tests.fuzz.corpus import corpus, mutations

FOLDER = Path(__file__).parents[2] / "build" / "fuzz"
MAX_PIXELS = 2**22
"""Less than the decoder allows by itself: time for more inputs."""
MAX_SECONDS = 20.0


def one_input(data: bytes) -> None:
    """Raises whatever a file of these bytes must not lead to."""
    with silence():
        _decode_twice(data)


def _decode_twice(data: bytes) -> None:
    try:
        image = decode(data)
    except ImageError as error:
        check_reason(error.reason)
        return
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    assert min(image.shape[1:]) >= 2
    assert image.shape[1] * image.shape[2] <= MAX_PIXELS
    assert torch.equal(image, decode(data)), "other pixels the second time"


def check_reason(reason: str) -> None:
    assert reason, "an error without a reason"
    assert reason.isprintable(), f"the reason is not one line of text: {reason!r}"


@contextmanager
def silence() -> Iterator[None]:
    """Fails where something is written on standard output or standard error, by C as by Python."""
    kept = {stream: os.dup(stream) for stream in (1, 2)}
    with tempfile.TemporaryFile() as said:
        try:
            for stream in kept:
                os.dup2(said.fileno(), stream)
            yield
        finally:
            for stream, copy in kept.items():
                os.dup2(copy, stream)
                os.close(copy)
        said.seek(0)
        text = said.read().decode(errors="backslashreplace")
    assert not text, f"was written beside: {text!r}"


@contextmanager
def watched() -> Iterator[None]:
    """Ends the process, in C as in Python, where the block takes far too long; `enable_reports` has it say where."""
    signal.setitimer(signal.ITIMER_REAL, 2 * MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def one_file(path: Path, data: bytes) -> None:
    """The same of what reads files by their names; the path is overwritten."""
    _overwrite(path, data)
    assert isinstance(encoding(path), str)
    start = time.monotonic()
    one_input(data)
    seconds = time.monotonic() - start
    assert seconds < MAX_SECONDS, f"took {seconds:.0f} seconds"


def _overwrite(path: Path, data: bytes) -> None:
    """In place: a file that is emptied first is written to the disk when it is closed, which takes most of the time."""
    with open(path, "r+b" if path.exists() else "wb") as file:
        file.write(data)
        file.truncate()


def enable_reports() -> None:
    """Where the process ends of itself, it says on what is standard error now at which line that was."""
    errors = os.dup(2)
    faulthandler.enable(errors)
    faulthandler.register(signal.SIGALRM, errors, chain=True)


def prepare() -> None:
    """Bounds the size of images, and silences Pillow, as the commands do."""
    importlib.import_module("detector.data.decode").MAX_PIXELS = MAX_PIXELS  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", module=r"PIL\.")


def loop(seconds: float, seed: int, count: float = math.inf) -> int:
    """Runs mutations until the time is up or so many are done; returns how many failed.

    One that does not end is ended with the process, see :func:`watched`.
    """
    last = FOLDER / "last"
    done, failed, deadline = 0, 0, time.monotonic() + seconds
    for data in mutations(corpus(seed), seed):
        if done >= count or time.monotonic() > deadline:
            break
        done += 1
        try:
            with watched():
                one_file(last, data)
        except Exception as error:
            failed += 1
            kept = FOLDER / f"{type(error).__name__}-{hashlib.sha256(data).hexdigest()[:16]}"
            kept.write_bytes(data)
            print(f"{kept}: {type(error).__name__}: {error}", flush=True)
    last.unlink(missing_ok=True)
    print(f"{done} inputs from seed {seed}, {failed} failed")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="(default: 60, or as long as --count takes)")
    parser.add_argument("--count", type=int, help="so many inputs; atheris is then not used")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*", help="inputs to run again, and no others")
    args = parser.parse_args()
    enable_reports()
    FOLDER.mkdir(parents=True, exist_ok=True)
    prepare()
    for file in args.files:
        one_input(file.read_bytes())
    if args.files:
        return 0
    print(f"seed {args.seed}", flush=True)
    if args.count is not None:
        seconds = math.inf if args.seconds is None else args.seconds
        return int(loop(seconds, args.seed, args.count) > 0)
    seconds = 60 if args.seconds is None else args.seconds
    if importlib.util.find_spec("atheris"):
        command = [sys.executable, "-m", "tests.fuzz.led_by_coverage", f"{seconds:.0f}", str(args.seed)]
        return subprocess.run(command).returncode
    return int(loop(seconds, args.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
