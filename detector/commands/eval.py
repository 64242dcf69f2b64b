"""`npr eval`: accuracy and average precision on each generator of a data set."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from detector.commands.arguments import (
    add_device,
    add_policy,
    add_weights,
    default_workers,
    find_device,
    find_weights,
    names,
    natural_int,
    positive_int,
)

_DESCRIPTION = """\
Measure a detector on every generator of a data set: images, accuracy at 0.5 (Acc), average precision (AP), accuracy on
reals and on fakes, AUC, in percent, and their mean over the generators, as the papers report them. Images that cannot
be read are named and do not count."""

_EPILOG = """\
examples:
  npr eval data/test --weights runs/data
  npr eval ForenSynths --weights NPR.pth --csv forensynths.csv
  npr eval GenImage --split val --weights NPR.pth --policy native --json results.json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `eval` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "eval", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="folder of real and generated images, by generator")
    add_weights(parser)
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="of the data set (default: test if there is one, else all)"
    )
    parser.add_argument("--generators", metavar="A,B", type=names, help="these alone")
    parser.add_argument("--classes", metavar="A,B", type=names, help="these alone")
    add_policy(parser)
    parser.add_argument("--csv", metavar="FILE", help="write the table, in percent; - for standard output")
    parser.add_argument("--json", metavar="FILE", help="write the results, as fractions; - for standard output")
    parser.add_argument(
        "--batch-size", metavar="N", type=positive_int, default=32, help="of equal sizes (default: %(default)s)"
    )
    parser.add_argument("--workers", metavar="N", type=natural_int, help="processes that decode images")
    add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where no image could be read."""
    from dataclasses import replace

    from rich.console import Console

    from detector.console import say
    from detector.data import find_images, has_split
    from detector.evaluation import as_csv, as_json, as_table, evaluate
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.models import load_checkpoint

    keep_freed_memory()
    for target in (args.csv, args.json):
        if target not in (None, "-"):
            check_writable(target)
    device = find_device(args.device)
    weights = find_weights(args.weights)
    model = load_checkpoint(weights, device)
    preprocessing = replace(model.preprocessing, policy=args.policy) if args.policy else model.preprocessing
    split = args.split or ("test" if has_split(args.data, "test") else None)
    collection = find_images(args.data, split).select(categories=args.classes, generators=args.generators)
    say(collection.describe())

    evaluation = evaluate(
        model,
        collection,
        preprocessing=preprocessing,
        batch_size=args.batch_size,
        workers=default_workers(device) if args.workers is None else args.workers,
        weights=str(weights),
        verbose=True,
    )
    for image in evaluation.bad:
        say(f"skipped {image.path}: {image.reason}")
    for remark in evaluation.undefined:
        say(remark)
    if "-" not in (args.csv, args.json):
        Console().print(as_table(evaluation))
    if args.csv is not None:
        _write(args.csv, as_csv(evaluation))
    if args.json is not None:
        _write(args.json, as_json(evaluation))
    return int(len(evaluation.bad) == len(collection))


def _write(target: str, text: str) -> None:
    from detector.files import write_text

    if target == "-":
        sys.stdout.write(text)
    else:
        write_text(target, text)
