"""Measures everything on this machine, in both settings of the allocator, and prints the table.

    python -m benchmarks.run [--repeats 3] [--out results.json] [-k EXPRESSION]

Every repeat runs both settings in processes of their own, so that what else the machine does falls on all alike; the
table shows medians. Results go to benchmarks/results/<cpu>-<date>.json.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import floors, machine, table
from benchmarks.conftest import BATCH, SIZE, THREADS

ROOT = Path(__file__).parents[1]

# What glibc does with freed memory: its default hands large blocks back to the system, and every new output costs page
# faults; "kept" keeps them, as the npr command asks for with mallopt.
SETTINGS = {
    "default": {},
    "kept": {
        "MALLOC_MMAP_THRESHOLD_": "4000000000",
        "MALLOC_TRIM_THRESHOLD_": "8000000000",
        "MALLOC_TOP_PAD_": "2000000000",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure speed on this machine.")
    parser.add_argument("--repeats", type=int, default=3, help="times that the suite runs (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="results file (default: benchmarks/results/<cpu>-<date>.json)")
    parser.add_argument("-k", metavar="EXPRESSION", default="", help="only these benchmarks, as pytest selects them")
    args = parser.parse_args()

    description = machine.describe(THREADS)
    day = datetime.date.today().isoformat()
    kind = machine.slug(f"{description['cpu']} {description['cpus']} cpus")
    out = args.out or ROOT / "benchmarks" / "results" / f"{kind}-{day}.json"

    runs: dict[tuple[str, ...], dict[str, Any]] = {}
    medians: dict[tuple[str, ...], list[float]] = defaultdict(list)
    measured: dict[str, list[float | None]] = defaultdict(list)
    loads = []
    for repeat in range(args.repeats):
        print(f"repeat {repeat + 1} of {args.repeats}", file=sys.stderr)
        measured["multiply_adds"].append(floors.fma_peak(THREADS))
        measured["bytes"].append(floors.copy_bandwidth())
        for setting, environment in SETTINGS.items():
            loads.append(os.getloadavg()[0])
            for result in run_suite(environment, args.k):
                facts = result["extra_info"]
                key = (setting, facts["op"], facts["work"], facts["implementation"], facts["layout"])
                runs[key] = facts
                medians[key].append(result["stats"]["median"] * 1e3 / facts["images"])

    results = {
        "date": day,
        "machine": description,
        "load_average": {"least": round(min(loads), 1), "most": round(max(loads), 1)},
        "input": f"{BATCH} images of {SIZE}x{SIZE}",
        "repeats": args.repeats,
        "floors_per_second": {name: max((v for v in values if v), default=None) for name, values in measured.items()},
        "results": [
            {"setting": key[0], **facts, "ms_per_image": statistics.median(medians[key]), "of": sorted(medians[key])}
            for key, facts in runs.items()
        ],
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(table.markdown(results))
    print(f"\nwritten to {out}", file=sys.stderr)


def run_suite(environment: dict[str, str], selection: str) -> list[dict[str, Any]]:
    """pytest-benchmark's records of one run of all benchmarks."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        subprocess.run(
            [
                sys.executable, "-m", "pytest", "benchmarks", "-q", "--benchmark-enable", "--benchmark-disable-gc",
                f"--benchmark-json={report}", "--benchmark-columns=median", "-k", selection,
            ],
            cwd=ROOT,
            env=os.environ | environment,
            stdout=sys.stderr,
            check=True,
        )  # fmt: skip
        return json.loads(report.read_text())["benchmarks"]


if __name__ == "__main__":
    main()
