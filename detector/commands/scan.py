"""`npr scan`: verdicts on millions of files, on one machine or a cluster, in Parquet."""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, redirect_stdout
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import (
    add_judging,
    add_weights,
    count_cores,
    find_preprocessing,
    find_weights,
    names,
    positive_int,
)
from detector.commands.lines import identity_of
from detector.importing import nothing_to_collect
from detector.verdicts import PRECISIONS

if TYPE_CHECKING:
    from detector.console import Meter
    from detector.scan.listing import Sources

_DESCRIPTION = """\
Say of many images what `npr detect` says of each, with Ray: on the cores of this machine, or on a cluster.

PATHs are files, folders (with subfolders), patterns, manifests (.parquet or .csv, with a column of paths) and URIs of
object stores. Results go to Parquet files in the folder --out, a row for each path, as they are there: path, sha256,
bytes, width, height, score, verdict, llr, low, high, read, reasons, facts (JSON), error, model, and the columns of
--carry. A file that cannot be read is a row with its error; the exit status is then 1, as of `npr detect`.

However the command ended, it goes on where it was when it is given again: paths that have a row in the folder are
skipped, whatever became of the file there, and a path given twice gets one row. A folder of another model, decoder,
version or setting is refused."""

_EPILOG = """\
examples:
  npr scan archive/ --out verdicts
  npr scan images.parquet --column file --carry label,source --out verdicts
  npr scan s3://bucket/images --out /shared/verdicts --address 10.0.0.1:6379
  python -c "import pyarrow.parquet as pq; print(pq.read_table('verdicts')['verdict'].value_counts())"
"""


def add_parser(subparsers: Any) -> None:
    """Adds `scan` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "scan", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", metavar="PATH", nargs="+", help="files, folders, patterns, manifests or URIs")
    parser.add_argument(
        "--out", metavar="FOLDER", required=True, help="of the results; on a cluster, shared by its machines"
    )
    parser.add_argument("--column", metavar="NAME", default="path", help="of manifests, with paths (default: path)")
    parser.add_argument(
        "--carry", metavar="NAMES", type=names, default=(), help="other columns of manifests, for the results too"
    )
    add_weights(parser)
    add_judging(parser)
    where = parser.add_argument_group("where")
    where.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster, or auto for the one that this machine is part of"
    )
    where.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where Ray has GPUs, an actor for each")
    where.add_argument("--actors", metavar="N", type=positive_int, help="that score (default: all there is room for)")
    where.add_argument(
        "--cores", metavar="N", type=positive_int, help="of each actor, to decode and to score (default: 8 at most)"
    )
    where.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_int,
        default=16,
        help="of equal sizes, on a GPU (default: %(default)s)",
    )
    where.add_argument(
        "--block-size",
        metavar="N",
        type=positive_int,
        default=256,
        help="files in a Parquet file, and at most lost work of an actor that is killed (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="the closing summary as a JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where a file could not be read."""
    begun = time.monotonic()
    try:
        with nothing_to_collect():
            from detector.scan import cluster, engine
            from detector.scan.listing import find_sources
            from detector.scan.output import Output
            from detector.scan.scoring import RESULTS, Judging
    except ModuleNotFoundError as error:
        raise ValueError(f"npr scan needs {error.name}: pip install 'npr-kernels[scan]'") from error
    from detector.console import Meter
    from detector.evaluation import threshold_of
    from detector.models import load_checkpoint

    for name in args.carry:
        if name in RESULTS.names:
            raise ValueError(f"--carry {name}: results have a column of that name")
    sources = find_sources(args.paths, args.column, args.carry)
    weights = find_weights(args.weights).resolve()
    model = load_checkpoint(weights)
    preprocessing = find_preprocessing(args, model.preprocessing)
    threshold = threshold_of(model) if args.threshold is None else args.threshold
    own = preprocessing == model.preprocessing
    identity = identity_of(
        weights, None if own else args.policy, None if args.exact else args.confidence, args.precision
    )
    with ExitStack() as stack:
        output = stack.enter_context(Output(args.out, _settings(identity, threshold, not args.no_unsure, args.carry)))
        nowhere = stack.enter_context(open(os.devnull, "w"))
        stack.enter_context(redirect_stdout(nowhere))  # where Ray tells of mishaps that it mends itself
        stack.enter_context(cluster.running(args.address, count_cores()))
        device = args.device or ("cuda" if cluster.has_gpu() else "cpu")
        crew = cluster.find_crew(args.actors, args.cores, device == "cuda")
        judging = Judging(
            weights=weights,
            model=identity["model"],
            decoder=identity["decoder"],
            versions=identity["versions"],
            folder=os.getcwd(),
            device=device,
            precision=args.precision,
            preprocessing=preprocessing,
            threshold=threshold,
            unsure=not args.no_unsure,
            exact=args.exact,
            confidence=args.confidence,
            batch_size=args.batch_size,
            cores=crew.cores,
        )
        before, new = output.counts.copy(), Counter[str]()
        meter = stack.enter_context(Meter("scan", None, done=before.total()))
        threading.Thread(target=_count, args=(meter, sources), daemon=True).start()
        folder = output.folder.resolve()
        blocks = engine.scan(sources, folder, output.run, judging, crew, args.block_size)
        for counts in stack.enter_context(closing(blocks)):
            new += counts
            meter.advance(counts.total())
    print(_summary(before + new, new.total(), time.monotonic() - begun, args))
    return int((before + new)["error"] > 0)


def _settings(identity: dict[str, Any], threshold: float, unsure: bool, carried: tuple[str, ...]) -> dict[str, str]:
    """What a row rests on, but for the file, by the words that an error names it with."""
    return {
        "model": identity["model"],
        "decoder": identity["decoder"],
        "versions": ", ".join(" ".join(pair) for pair in identity["versions"].items()),
        "policy": str(identity.get("policy", "none")),
        "threshold": str(threshold),
        "confidence": str(identity.get("confidence", "exact")),
        "precision": str(identity.get("precision", PRECISIONS[0])),
        "unsure": str(unsure).lower(),
        "carried columns": ", ".join(carried) or "none",
    }


def _count(meter: Meter, sources: Sources) -> None:
    """Tells the meter, beside the work, how many files there are."""
    from detector.scan.listing import count_rows

    try:
        meter.total = count_rows(sources)
    except (ValueError, OSError):  # which the scan itself will come to
        return


def _summary(counts: Counter[str], new: int, seconds: float, args: argparse.Namespace) -> str:
    verdicts = ("fake", "real", "unsure", "error")
    if args.json:
        found: dict[str, Any] = {"out": args.out, "files": counts.total(), "new": new, "seconds": round(seconds, 3)}
        return json.dumps(found | {"rate": round(new / seconds, 3)} | {name: counts[name] for name in verdicts})
    words = ", ".join(f"{counts[name]:,} {name}" for name in verdicts)
    return f"{counts.total():,} files: {words}; {new:,} of them now, in {seconds:,.1f} s, {new / seconds:,.1f} a second"
