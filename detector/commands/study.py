"""`npr study`: from photographs to a report, as one command."""

from __future__ import annotations

import argparse
from typing import Any

from detector.commands.arguments import add_device, natural_int

_DESCRIPTION = """\
The papers' experiment on simulated generators: make 28 of them from photographs, train NPR and CNNDetection on one,
test both on all, degrade images, and write a report. Every stage is an npr command, which is printed and recorded; the
same command goes on where it was killed. The folder gets data, the runs npr and cnndetection, evaluation.json and .csv,
robustness.json, study.json and report.html. All generators are simulated: what is measured is how detectors read
up-sampling, not how they do on published generators."""

_EPILOG = """\
examples:
  npr study --photos ~/Pictures --out study        about 20 minutes on two cores
  npr study --out study --quick                    procedural photographs, a few minutes, figures that mean nothing
  npr study --photos ~/Pictures --out study --imagenet resnet50.pth    CNNDetection as published starts from these
"""


def add_parser(subparsers: Any) -> None:
    """Adds `study` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "study", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="the study's folder")
    parser.add_argument("--photos", metavar="DIR", help="photographs, searched with subfolders (default: procedural)")
    parser.add_argument("--quick", action="store_true", help="little of everything, to see that it works")
    parser.add_argument(
        "--imagenet", metavar="FILE", help="ResNet-50 weights that CNNDetection starts from (default: random ones)"
    )
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of the data set (default: 0)")
    add_device(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status, of a stage if one fails."""
    from pathlib import Path

    from detector.commands.arguments import find_device
    from detector.report import check_figures
    from detector.studies.study import FULL, QUICK, run_study, stages

    check_figures()
    find_device(args.device)
    out = Path(args.out)
    study = stages(
        out,
        QUICK if args.quick else FULL,
        photos=args.photos,
        imagenet=args.imagenet,
        seed=args.seed,
        device=args.device,
    )
    return run_study(out, study, args.npr)
