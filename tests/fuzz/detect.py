"""Feeds folders of mutated image files to `npr detect`: every file gets its one line, and nothing else is said.

    python -m tests.fuzz.detect [--count 1000] [--folder 500] [--seed N]

Folders take turns at the two kinds of output: the table, and --json with the --facts of every file. A folder of which
something is wrong is kept in build/fuzz.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.corpus import corpus, mutations

ROOT = Path(__file__).parents[2]
MAX_PIXELS = 2**20
"""Less than the decoder allows by itself: damaged headers make images of a hundred megapixels, which take minutes."""
COMMAND = [sys.executable, "-c", """
import importlib, sys
from detector.cli import main
importlib.import_module("detector.data.decode").MAX_PIXELS = int(sys.argv[1])
sys.exit(main(sys.argv[2:]))
""", str(MAX_PIXELS), "detect", "--no-unsure"]  # fmt: skip
KEPT = ROOT / "build" / "fuzz"
MAX_SECONDS = 3600.0
"""For a folder."""

_SCORED = re.compile(r"[01]\.\d{4}  (real|fake)    +\d+x\d+  (?P<path>.*)")
_REFUSED = re.compile(r" +-  error    +-  (?P<path>.*?): (?P<reason>.+)")


class Unexplained(AssertionError):
    """A folder of which `npr detect` did not say what it should."""


def check_folder(folder: Path, *, as_json: bool) -> int:
    """Runs `npr detect` on the folder; returns how many of its files have a score.

    Raises:
        Unexplained: the files do not have one line each, or something else was said, or nothing after a long time.
    """
    files = sorted(map(str, folder.iterdir()))
    shape = ["--json", "--facts"] if as_json else []
    try:
        done = subprocess.run([*COMMAND, str(folder), *shape], cwd=ROOT, capture_output=True, timeout=MAX_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Unexplained(
            f"no end after {MAX_SECONDS:.0f} s, {len((error.output or b'').splitlines())} lines"
        ) from None
    text = done.stdout.decode()
    lines = text.removesuffix("\n").split("\n")
    if not as_json:
        _expect(lines[0].split() == ["score", "verdict", "size", "path"], f"no head: {lines[0]!r}")
        del lines[0]
    beside = [line for line in done.stderr.splitlines() if not line.startswith(b"npr: warning: ")]
    _expect(not beside, f"beside: {beside[:20]!r}")
    _expect(len(lines) == len(files), f"{len(lines)} lines for {len(files)} files, exit status {done.returncode}")
    scored = sum((_check_object if as_json else _check_row)(*pair) for pair in zip(lines, files, strict=True))
    _expect(done.returncode == int(scored < len(files)), f"exit status {done.returncode}")
    return scored


def _check_row(line: str, file: str) -> bool:
    """Whether the file has a score."""
    _expect(line.isprintable(), f"{file}: not one line of text: {line!r}")
    match = _SCORED.fullmatch(line) or _REFUSED.fullmatch(line)
    _expect(match is not None and match["path"] == file, f"{file}: {line!r}")
    return match is not None and match.re is _SCORED


def _check_object(line: str, file: str) -> bool:
    """Whether the file has a score."""
    found = json.loads(line)
    _expect(found["path"] == file and "facts" in found, f"{file}: {line}")
    if "error" in found:
        _expect(bool(found["error"]) and found["error"].isprintable() and "score" not in found, f"{file}: {line}")
        return False
    _expect(0 <= found["score"] <= 1 and len(found["sha256"]) == 64, f"{file}: {line}")
    return True


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise Unexplained(otherwise)


def run(count: int, seed: int, folder: Path, *, files: int) -> int:
    """Checks folders of mutations, made under `folder`; returns how many of them failed."""
    inputs = itertools.islice(mutations(corpus(seed), seed), count)
    scored = failed = 0
    for number in itertools.count():
        batch = list(itertools.islice(inputs, files))
        if not batch:
            break
        place = folder / f"{number:04}"
        place.mkdir()
        for i, data in enumerate(batch):
            (place / f"{i:04}.jpg").write_bytes(data)
        try:
            scored += check_folder(place, as_json=number % 2 == 1)
        except Unexplained as error:
            failed += 1
            kept = KEPT / f"detect-{seed}-{place.name}"
            shutil.copytree(place, kept, dirs_exist_ok=True)
            print(f"{kept}: {error}", flush=True)
        shutil.rmtree(place)
        print(f"{number * files + len(batch)} of {count} files", flush=True)
    print(f"{count} files from seed {seed}: {scored} have a score, {failed} folders failed")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--folder", type=int, default=500, help="files in a folder (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return int(run(args.count, args.seed, Path(folder), files=args.folder) > 0)


if __name__ == "__main__":
    sys.exit(main())
