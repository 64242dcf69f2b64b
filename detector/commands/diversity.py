"""`npr diversity`: average precision against the number of classes trained on."""

from __future__ import annotations

import argparse
from typing import Any

from detector.commands.arguments import names, positive_int
from detector.commands.series import add_series, config_of, show

_DESCRIPTION = """\
Train on 2, 4, 8, 16 and 20 of DATA's classes, test every run on the same images, and draw average precision against the
number of classes (Wang et al., CVPR 2020). Each run trains on the first so many classes of one order, by the same
recipe. The folder gets a run each, diversity.json and report.html. The same command goes on where it was killed, and
does nothing twice."""

_EPILOG = """\
examples:
  npr diversity ForenSynths --out runs/diversity --device cuda --workers 8 --imagenet resnet50.pth
  npr diversity ForenSynths --out runs/npr-diversity --recipe npr --counts 1,2,4 --classes car,cat,chair,horse
  npr diversity data --out runs/families --recipe default --counts 1,2,3     data of npr synth --train-family A,B,C

Classes are the folders <split>/<class>/{0_real,1_fake}; where npr synth has made DATA, those are the generators that it
was told to train on.
"""


def add_parser(subparsers: Any) -> None:
    """Adds `diversity` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "diversity", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_series(parser, recipe="cnndetection")
    parser.add_argument(
        "--counts", metavar="N,M", type=_counts, help="numbers of classes to train on (default: 2,4,8,16,20)"
    )
    parser.add_argument(
        "--classes",
        metavar="A,B",
        type=names,
        help="the order in which classes are added (default: all classes, in an order drawn from the seed)",
    )
    parser.add_argument("--imagenet", metavar="FILE", help="ResNet-50 weights that cnndetection starts from")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from detector.studies.diversity import COUNTS, diversity

    config = config_of(args, imagenet=args.imagenet)
    series = diversity(
        config,
        COUNTS if args.counts is None else args.counts,
        test=args.test,
        order=args.classes,
        command=args.command_line,
    )
    show(series, config)
    return 0


def _counts(text: str) -> tuple[int, ...]:
    return tuple(positive_int(name) for name in names(text))
