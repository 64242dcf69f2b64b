"""Kills `npr train`, `npr eval`, `npr synth` and `npr study` with SIGKILL, so many times each; see harness.py.

python -m tests.kills.run [--kills 25] [--seed N] [WORK ...]
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from pathlib import Path

# One thread, of which a forked process is the same; to be set before torch is imported.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"


def main() -> int:
    from tests.kills.harness import Broken, torment
    from tests.kills.works import make_works

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="of each work (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(31))
    parser.add_argument("works", metavar="WORK", nargs="*", help="these alone")
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    failed, kills = 0, 0
    with tempfile.TemporaryDirectory() as place:
        works = make_works(Path(place) / "inputs")
        for name in args.works or works:
            try:
                tally = torment(works[name], Path(place) / name, args.kills, args.seed, say=_say)
            except Broken as error:
                _say(f"FAILED: {error}")
                failed += 1
            else:
                kills += tally.kills
                _say(f"{name}: {tally.kills} kills in {tally.rounds} rounds")
    _say(f"{kills} kills from seed {args.seed}, {failed} works failed")
    return int(failed > 0)


def _say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
