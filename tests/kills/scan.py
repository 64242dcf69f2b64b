"""Kills `npr scan` with SIGKILL at random moments, has it go on, and looks for what was lost, doubled or left.

python -m tests.kills.scan [--rounds 20] [--seed N] [--pictures 60]

The command's process is killed, not those that Ray has started for it: they are what a killed scan leaves behind. After
each kill every Parquet file must be whole and no path twice in them; in the end the rows are those of a scan that was
never killed. The next scan starts at once, while those processes are still there.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
PATIENCE = 300.0


def start(arguments: list[str]) -> subprocess.Popen[str]:
    """`npr scan` as a process."""
    command = [sys.executable, "-m", "detector.cli", "scan", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_parts(process: subprocess.Popen[str], folder: Path, number: int) -> None:
    """Returns when so many Parquet files are there, or the process has ended."""
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and len(list(folder.glob("*.parquet"))) < number:
        assert time.monotonic() < deadline, "no end"
        time.sleep(0.005)


def check(folder: Path) -> list[dict]:
    """The rows, sorted by path. Raises AssertionError where a path is twice in them, and others for files that are not
    whole."""
    from tests.detector.scan.rows import rows_of

    rows = sorted(rows_of(folder), key=lambda row: row["path"])
    paths = [row["path"] for row in rows]
    assert len(paths) == len(set(paths)), "a path has two rows"
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("--pictures", type=int, default=60, help="of noise, that are scanned (default: %(default)s)")
    args = parser.parse_args()
    draw = random.Random(args.seed)
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as place:
        inputs, out, reference = (Path(place) / name for name in ("in", "out", "reference"))
        inputs.mkdir()
        for number in range(args.pictures):
            size = draw.randint(32, 400), draw.randint(32, 400)
            noise = Image.frombytes("RGB", size, draw.randbytes(3 * size[0] * size[1]))
            noise.save(inputs / f"{number:05}.{draw.choice(['jpg', 'png', 'webp'])}")
        (inputs / "bad.png").write_text("no image")
        words = [str(inputs), "--block-size", "4", "--out"]
        begun = time.monotonic()
        assert start([*words, str(reference)]).wait() == 1
        seconds = time.monotonic() - begun
        wanted = check(reference)
        assert len(wanted) == args.pictures + 1
        parts = len(list(reference.glob("*.parquet")))
        kills = 0
        for number in range(args.rounds):
            moments: list[str] = []
            for _ in range(draw.randint(1, 3)):
                process = start([*words, str(out)])
                # Half of the kills fall at any moment, half just after a file was written.
                if draw.random() < 0.5:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(draw.uniform(0, seconds))
                else:
                    wait_for_parts(process, out, draw.randint(1, parts))
                process.kill()
                process.communicate()
                kills += process.returncode == -signal.SIGKILL
                moments.append(f"{len(check(out)) if out.exists() else 0} rows")
            process = start([*words, str(out)])
            _, said = process.communicate()
            assert process.returncode == 1, said
            assert check(out) == wanted, "other rows"
            assert not list(out.glob(".*")), "something temporary is left"
            shutil.rmtree(out)
            print(f"round {number + 1}: killed at {', '.join(moments)}: the same in the end", flush=True)
    print(f"{kills} kills in {args.rounds} rounds from seed {args.seed}, nothing lost or doubled", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
