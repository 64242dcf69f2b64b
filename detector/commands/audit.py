"""`npr audit`: what gives the labels of a data set away other than content."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import count_cores, count_readers, find_device, find_preprocessing
from detector.commands.measuring import Named, add_selection, limit_collection, load_detectors

if TYPE_CHECKING:
    from detector.audit import Bias
    from detector.audit.audit import Measure
    from detector.audit.leaks import Column
    from detector.data import Collection, Delivery

_DESCRIPTION = """\
Look for what tells a data set's reals from its fakes other than what they show: format, size, compression, metadata,
combs and noise of the pixels. A detector that is trained on such a set learns the difference in storage, and one that
is measured on it is praised for that.

Each fact is used alone as a score: its area under the ROC curve (AUC) in the better direction, its 95 % interval
(DeLong), and the chance p that labels dealt out at random be told apart as well, by permutation and corrected for the
number of facts (Holm), so that a set without leaks is accused in at most one case of twenty. Categories are scored by
their frequencies among other images, so that many of them get no high AUC by chance.
  leak            p at most 0.05 for a fact of the file: nothing that a generator does could be why
  differs         p at most 0.05 for a fact of the pixels: a leak, other subjects, or the trace that detectors look for
  none found      p above 0.05
  same everywhere, too few: not tested

Duplicates are told by SHA-256 and by a perceptual hash (64 bits, at most 6 of them different), within and across labels
and splits. Across splits they make measurements wrong; near images of both labels in one split are only told, since
fakes made from the very photograph are what aligned data sets want.

With --weights, also how far a detector's score follows each fact within each label (Spearman's correlation of ranks; of
categories the correlation ratio), which is a bias, and apart from that what deliveries do to its scores."""

_EPILOG = """\
exit status:
  0 no leak found, 1 a leak found (a fact or duplicates) or bad input, 2 wrong usage

examples:
  npr audit data
  npr audit data --json audit.json --html audit.html
  npr audit data --generators biggan
  npr audit data --weights default --delivery jpeg:80 resize:0.5 crop:256
"""


def add_parser(subparsers: Any) -> None:
    """Adds `audit` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "audit", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="folder of real and generated images, by generator")
    parser.add_argument(
        "--weights",
        metavar="[NAME=]FILE",
        nargs="+",
        default=[],
        help="audit these detectors too: checkpoints, folders of trainings, or default for the one in the package",
    )
    parser.add_argument("--split", choices=("train", "val", "test"), help="of the data set (default: all)")
    parser.add_argument(
        "--delivery",
        metavar="TEXT",
        nargs="+",
        help="what the images pass before the detectors score them once more, as of npr truth "
        "(default: jpeg:80 resize:0.5)",
    )
    add_selection(parser)
    parser.add_argument("--json", metavar="FILE", help="write the results; - for standard output")
    parser.add_argument("--html", metavar="FILE", help="write a report with tables and plots")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where labels leak or no image could be read."""
    from detector.audit import audit
    from detector.audit.bias import DELIVERIES
    from detector.audit.tables import as_audit_tables, summary
    from detector.commands.truth import write_result
    from detector.console import say
    from detector.data import Delivery, find_images
    from detector.evaluation import print_table
    from detector.evaluation.results import as_results
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.report import check_figures, write_report

    keep_freed_memory()
    for target in (args.json, args.html):
        if target not in (None, "-"):
            check_writable(target)
    if args.html is not None:
        check_figures()
    deliveries = [Delivery.parse(text) for text in args.delivery or DELIVERIES]
    collection = limit_collection(args, find_images(args.data, args.split))
    say(collection.describe())
    detectors = load_detectors(args.weights, find_device(args.device)) if args.weights else []
    found = audit(
        collection,
        detectors=[_measure(args, detector, deliveries) for detector in detectors],
        workers=count_cores() if args.workers is None else args.workers,  # to read images is all the work there is
        seed=args.seed,
        command=args.command_line,
        verbose=True,
    )
    for bad in found.bad:
        say(f"skipped {bad.path}: {bad.reason}")
    if not found.images:
        raise ValueError(f"no image in {args.data} could be read")
    if args.json != "-":
        for table in as_audit_tables(found):
            print_table(table)
        print("\n".join(summary(found)))
    results = [found.to_dict()]
    if args.json is not None:
        write_result(args.json, as_results(results))
    if args.html is not None:
        write_report(args.html, f"Audit of {args.data}", results)
    return int(not found.is_clean)


def _measure(args: argparse.Namespace, detector: Named, deliveries: Sequence[Delivery]) -> Measure:
    from detector.audit import measure_bias

    def measure(collection: Collection, columns: Sequence[Column]) -> Bias:
        return measure_bias(
            detector.model,
            collection,
            columns,
            deliveries,
            preprocessing=find_preprocessing(args, detector.model.preprocessing),
            batch_size=args.batch_size,
            workers=count_readers(args),
            seed=args.seed,
            name=detector.name,
            weights=str(detector.weights),
            command=args.command_line,
            verbose=True,
        )

    return measure
