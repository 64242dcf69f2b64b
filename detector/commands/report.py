"""`npr report`: one HTML page of any number of results."""

from __future__ import annotations

import argparse
from typing import Any

_DESCRIPTION = """\
Put results of audit, calibrate, truth, eval, robustness, diversity and ablate together as one self-contained HTML page:
tables, plots, what the figures do not say, and how they were made."""

_EPILOG = """\
examples:
  npr report results.json robustness.json --out report.html
"""


def add_parser(subparsers: Any) -> None:
    """Adds `report` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "report", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", metavar="RESULT", nargs="+", help="JSON files that other commands have written")
    parser.add_argument("--out", metavar="FILE", required=True, help="the page")
    parser.add_argument("--title", metavar="TEXT", default="Detection of generated images", help="of the page")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from detector.evaluation import read_results
    from detector.files import check_writable
    from detector.report import write_report

    check_writable(args.out)
    results = [result for path in args.results for result in read_results(path)]
    write_report(args.out, args.title, results)
    print(args.out)
    return 0
