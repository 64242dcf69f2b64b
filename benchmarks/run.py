"""Measures everything on this machine, as `npr bench` does, and draws the README's plots from it: `make bench`.

    python -m benchmarks.run [options of npr bench]

Results go to benchmarks/results/<cpu>-<number of them>-cpus-<date>.json, or where --json says.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path

from benchmarks import plots, record
from detector import cli
from detector.bench import machine


def main(arguments: list[str]) -> int:
    if "--json" not in arguments:
        record.FOLDER.mkdir(exist_ok=True)
        arguments = [*arguments, "--json", str(path())]
    status = cli.main(["bench", *arguments])
    return status or plots.main([arguments[arguments.index("--json") + 1]])


def path() -> Path:
    """The results file of this machine today."""
    name = machine.slug(f"{machine.cpu_name()} {os.cpu_count()} cpus")
    return record.FOLDER / f"{name}-{datetime.date.today().isoformat()}.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
