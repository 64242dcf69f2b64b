"""`npr ablate`: the residual's variants of NPR's Table 7, trained and tested."""

from __future__ import annotations

import argparse
from typing import Any

from detector.commands.arguments import names
from detector.commands.series import add_series, config_of, show

_DESCRIPTION = """\
Train and test NPR with every residual of its Table 7 (Tan et al., CVPR 2024): cells of 2, 4 and 8 pixels, each of the
four anchors of cells of 2, and the cell's mean or maximum in the anchor's place. The folder gets a run each,
ablation.json and report.html. The same command goes on where it was killed, and does nothing twice."""

_EPILOG = """\
examples:
  npr ablate data --out runs/ablation                    small native crops, minutes a run on a CPU
  npr ablate ForenSynths --out runs/ablation --recipe npr --classes car,cat,chair,horse --device cuda --workers 8
"""


def add_parser(subparsers: Any) -> None:
    """Adds `ablate` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "ablate", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_series(parser, recipe="default")
    parser.add_argument("--classes", metavar="A,B", type=names, help="train on these classes alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from detector.studies.ablation import ablation

    config = config_of(args, classes=args.classes)
    show(ablation(config, test=args.test, command=args.command_line), config)
    return 0
