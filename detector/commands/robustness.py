"""`npr robustness`: accuracy and average precision as images are degraded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import count_readers, find_device, find_preprocessing, names
from detector.commands.measuring import (
    add_measuring,
    find_collection,
    limit_collection,
    load_detectors,
    score_file,
)

if TYPE_CHECKING:
    from detector.evaluation import Robustness

_DESCRIPTION = """\
Measure detectors on degraded images: Gaussian blur (blur), JPEG (jpeg), resizing by a factor (resize), Gaussian noise
(noise), each in rising strength, and the centre crop against resizing to the same side (view). Writes a file of results
whole after each condition; run again, it takes over what the file already holds for the same weights and images."""

_EPILOG = """\
examples:
  npr robustness data/test --weights runs/data --out robustness.json
  npr robustness data/test --weights npr=runs/a cnn=runs/b --limit 20 --out r.json --html r.html
  npr robustness data/test --weights runs/data --sweeps jpeg,noise --out r.json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `robustness` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "robustness", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_measuring(parser)
    parser.add_argument("--out", metavar="FILE", required=True, help="the results, as JSON; taken up where it exists")
    parser.add_argument("--html", metavar="FILE", help="write a report with curves")
    parser.add_argument("--sweeps", metavar="A,B", type=names, help="these alone (default: all)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where no image could be read."""
    from detector.console import say
    from detector.evaluation import SWEEPS, as_robustness_table, print_table, robustness, write_results
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.report import check_figures, write_report

    keep_freed_memory()
    for target in (args.out, args.html):
        if target is not None:
            check_writable(target)
    if args.html is not None:
        check_figures()
    if unknown := [sweep for sweep in args.sweeps or () if sweep not in SWEEPS]:
        raise ValueError(f"--sweeps: unknown {', '.join(unknown)}; there are {', '.join(SWEEPS)}")
    before = _read(args.out)
    detectors = load_detectors(args.weights, find_device(args.device), args.precision)
    collection = limit_collection(args, find_collection(args))
    say(collection.describe())

    # By detector: what is not measured yet, or not this time, stays in the file as it is.
    contents = {result.provenance.detector: result for result in before}

    def save(result: Robustness) -> None:
        contents[result.provenance.detector] = result
        write_results(args.out, [each.to_dict() for each in contents.values()])

    results = []
    with score_file(args, detectors) as scores:
        for name, weights, model in detectors:
            result = robustness(
                model,
                collection,
                sweeps={sweep: SWEEPS[sweep] for sweep in args.sweeps or SWEEPS},
                preprocessing=find_preprocessing(args, model.preprocessing),
                seed=args.seed,
                batch_size=args.batch_size,
                workers=count_readers(args),
                name=name,
                weights=str(weights),
                command=args.command_line,
                done=before,
                save=save,
                resume=scores,
                verbose=True,
            )
            save(result)
            results.append(result)
    print_table(as_robustness_table(results))
    if args.html is not None:
        write_report(args.html, f"Robustness on {args.data}", [result.to_dict() for result in results])
    return int(not any(point.images for result in results for point in result.points.values()))


def _read(path: str) -> list[Robustness]:
    """What an earlier run has left.

    Raises:
        ValueError: the file holds something else, which is not to be overwritten.
    """
    from pathlib import Path

    from detector.evaluation import Robustness, read_results

    try:
        return [Robustness.from_dict(result) for result in read_results(path)] if Path(path).exists() else []
    except ValueError as error:
        raise ValueError(f"{path} is there and is not to be overwritten: {error}") from error
