"""Feeds mutated image files to the decoder: whatever the bytes, an image comes out, or an ImageError of one line.

    python -m tests.fuzz.decode [--seconds 60] [--seed N] [FILE ...]

With atheris installed its coverage leads the mutations, from the same files; otherwise a loop draws them from a seed,
which it prints. What fails is kept in build/fuzz, and is run again where it is given as FILE. An input that ends the
process, too, is there, as build/fuzz/last.
"""

from __future__ import annotations

import argparse
import faulthandler
import hashlib
import importlib
import importlib.util
import secrets
import subprocess
import sys
import time
import warnings
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


def one_file(path: Path, data: bytes) -> None:
    """The same of what reads files by their names; the path is overwritten."""
    path.write_bytes(data)
    assert isinstance(encoding(path), str)
    start = time.monotonic()
    one_input(data)
    seconds = time.monotonic() - start
    assert seconds < MAX_SECONDS, f"took {seconds:.0f} seconds"


def prepare() -> None:
    """Bounds the size of images, and silences Pillow, as the commands do."""
    importlib.import_module("detector.data.decode").MAX_PIXELS = MAX_PIXELS  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", module=r"PIL\.")


def loop(seconds: float, seed: int) -> int:
    """Runs mutations until the time is up; returns how many failed."""
    last = FOLDER / "last"
    count, failed, deadline = 0, 0, time.monotonic() + seconds
    for data in mutations(corpus(seed), seed):
        if time.monotonic() > deadline:
            break
        count += 1
        try:
            one_file(last, data)
        except Exception as error:
            failed += 1
            kept = FOLDER / f"{type(error).__name__}-{hashlib.sha256(data).hexdigest()[:16]}"
            kept.write_bytes(data)
            print(f"{kept}: {type(error).__name__}: {error}", flush=True)
    last.unlink(missing_ok=True)
    print(f"{count} inputs from seed {seed}, {failed} failed")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("files", metavar="FILE", type=Path, nargs="*", help="inputs to run again, and no others")
    args = parser.parse_args()
    faulthandler.enable()
    FOLDER.mkdir(parents=True, exist_ok=True)
    prepare()
    for file in args.files:
        one_input(file.read_bytes())
    if args.files:
        return 0
    if importlib.util.find_spec("atheris"):
        command = [sys.executable, "-m", "tests.fuzz.led_by_coverage", f"{args.seconds:.0f}", str(args.seed)]
        return subprocess.run(command).returncode
    return int(loop(args.seconds, args.seed) > 0)


if __name__ == "__main__":
    sys.exit(main())
