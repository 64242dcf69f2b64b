"""`npr calibrate`: the threshold for a wanted rate of false alarms, with a guarantee, and likelihood ratios."""

from __future__ import annotations

import argparse
from typing import Any

from detector.commands.arguments import (
    UsageError,
    add_device,
    add_precision,
    add_readers,
    add_weights,
    count_readers,
    find_device,
    fraction,
    positive_int,
)
from detector.commands.measuring import load_detectors
from detector.verdicts import ALPHA, CONFIDENCE, PRECISIONS

_DESCRIPTION = """\
Find the lowest threshold above which, with 95 % confidence, at most 1 % of the reals lie: of reals like those given,
drawn as they were. It is an order statistic of their scores, chosen by their number alone, so the guarantee assumes
nothing of the detector; 1 % at 95 % takes at least 299 reals. Reals of another history have other scores: give each
history as a group of its own, then the threshold is the largest of the groups', and the guarantee holds for all of them
at once. Copies of a file count once.

With fakes, also learn the log-likelihood ratio of fake over real (log10), bounded by what so many images can support
(ELUB, Vergeer et al. 2016), and measure: fakes found, equal error rate, fakes found at 1 % and 0.1 % false alarms,
Cllr and its least value. With --out, write the detector with its new threshold and all this in it: `npr detect` uses
both, `npr info --model` shows them. With --precision int8, the ranges of int8 are taken from the reals, what is found
holds for int8, and --out keeps the ranges, too."""

_EPILOG = """\
examples:
  npr calibrate photos --out calibrated.safetensors
  npr calibrate camera=photos web=downloads,more --fakes generated --weights runs/data --out calibrated.safetensors
  npr calibrate photos --fakes sd=a/1_fake gan=b/1_fake --llr pav --alpha 0.05 --html calibration.html
"""


def add_parser(subparsers: Any) -> None:
    """Adds `calibrate` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "calibrate", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "reals",
        metavar="[NAME=]REALS[,REALS...]",
        nargs="+",
        help="groups of reals, each of one history: folders (with subfolders), files or patterns",
    )
    parser.add_argument(
        "--fakes", metavar="[NAME=]DIR[,DIR...]", nargs="+", action="extend", help="sources of generated images"
    )
    add_weights(parser)
    parser.add_argument(
        "--alpha",
        metavar="RATE",
        type=fraction,
        default=ALPHA,
        help="of the reals, at most so many may be called fake (default: %(default)s)",
    )
    parser.add_argument(
        "--confidence",
        metavar="C",
        type=fraction,
        default=CONFIDENCE,
        help="of the guarantee, at least 0.5 (default: %(default)s)",
    )
    parser.add_argument(
        "--llr",
        choices=("logistic", "pav"),
        help="how likelihood ratios follow from scores: a straight line of the logit, or any growing function "
        "(default: logistic)",
    )
    add_precision(parser)
    parser.add_argument("--out", metavar="FILE", help="write the detector, calibrated, as .safetensors")
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_int,
        default=32,
        help="of equal sizes, on a GPU (default: %(default)s)",
    )
    add_readers(parser)
    add_device(parser)
    parser.add_argument("--json", metavar="FILE", help="write the result, rates as fractions; - for standard output")
    parser.add_argument("--html", metavar="FILE", help="write a report with tables and plots")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    if args.llr is not None and args.fakes is None:
        raise UsageError("argument --llr goes with --fakes")
    from detector.commands.truth import write_result
    from detector.console import say
    from detector.data import FAKE, REAL
    from detector.evaluation import as_calibration_tables, calibrate, find_folders, parse_pools, print_table
    from detector.evaluation.ranges import ranges_on
    from detector.evaluation.results import as_results
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.models import save_calibrated
    from detector.report import check_figures, write_report

    keep_freed_memory()
    for target in (args.out, args.json, args.html):
        if target not in (None, "-"):
            check_writable(target)
    if args.html is not None:
        check_figures()
    reals = [find_folders(name, items, REAL) for name, items in parse_pools(args.reals).items()]
    fakes = [find_folders(name, items, FAKE) for name, items in parse_pools(args.fakes or [], "fakes").items()]
    device = find_device(args.device)
    (detector,) = load_detectors([args.weights], device)
    model = detector.model
    if args.precision != PRECISIONS[0]:
        model.ranges = ranges_on(model, (path for pool in reals for part in pool.parts.values() for path in part))
        model = model.for_inference(args.precision)
    calibration = calibrate(
        model,
        reals,
        fakes,
        alpha=args.alpha,
        confidence=args.confidence,
        method=args.llr or "logistic",
        batch_size=args.batch_size,
        workers=count_readers(args),
        name=detector.name,
        weights=str(detector.weights),
        command=args.command_line,
        verbose=True,
    )
    for image in calibration.bad:
        say(f"skipped {image.path}: {image.reason}")
    for name, part in (*calibration.reals.items(), *calibration.fakes.items()):
        if part.copies:
            say(f"{name}: {part.copies} file{'s' * (part.copies != 1)} with the bytes of another count once")
    if args.json != "-":
        for table in as_calibration_tables(calibration):
            print_table(table)
    results = [calibration.to_dict()]
    if args.out is not None:
        save_calibrated(detector.weights, args.out, calibration.threshold, calibration.record(), detector.model.ranges)
    if args.json is not None:
        write_result(args.json, as_results(results))
    if args.html is not None:
        write_report(args.html, f"Calibration of {detector.name}", results)
    return 0
