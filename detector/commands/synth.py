"""`npr synth`: makes a data set of photographs and simulated generators' images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from detector.synth import FAMILIES, NOTE, build, find_families

_DESCRIPTION = """\
Make a complete data set, train/, val/ and test/ by generator, from photographs and simulated generators: decoders
fitted in closed form that imitate the up-sampling of real generators. Without --photos, procedural photographs are
made: dead-leaves scenes through a simulated camera. Real and fake are stored alike. The same command gives the same
bytes."""

_EPILOG = """\
examples:
  npr synth --out data                              procedural photographs
  npr synth --photos ~/Pictures --out data          your own
  npr synth --out data --train-family fir bilinear  other generators to train on
  npr synth --list                                  the generators
"""


def add_parser(subparsers: Any) -> None:
    """Adds `synth` to the command line's sub-parsers; its `run` is the parsed arguments' `run`."""
    parser = subparsers.add_parser(
        "synth",
        help="make a data set from photographs and simulated generators",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [spec.name for spec in FAMILIES]
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--out", metavar="DIR", help="the folder to make")
    action.add_argument("--list", action="store_true", help="list the simulated generators and stop")
    parser.add_argument(
        "--photos", metavar="DIR", help="photographs, searched with subfolders (default: procedural ones)"
    )
    parser.add_argument(
        "--scenes", metavar="N", type=int, default=200, help="number of procedural photographs (default: %(default)s)"
    )
    parser.add_argument(
        "--size", metavar="PX", type=int, default=128, help="side of the images, a multiple of 8 (default: %(default)s)"
    )
    parser.add_argument(
        "--count",
        metavar="N",
        type=int,
        default=100,
        help="images of each label for each generator in test and val (default: %(default)s)",
    )
    parser.add_argument(
        "--train-count",
        metavar="N",
        type=int,
        default=1500,
        help="images of each label for each generator in train (default: %(default)s)",
    )
    parser.add_argument(
        "--families", metavar="NAME", nargs="+", choices=names, default=names, help="test on these (default: all)"
    )
    parser.add_argument(
        "--train-family",
        metavar="NAME",
        nargs="+",
        choices=names,
        default=["nearest"],
        help="train and validate on these (default: nearest)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="seed of all that is drawn (default: %(default)s)"
    )
    parser.add_argument("--workers", metavar="N", type=int, help="threads; does not change the result (default: all)")
    parser.add_argument("--force", action="store_true", help="replace a data set that this command made before")
    parser.add_argument("--json", action="store_true", help="print the manifest, or the list, as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status. Raises ValueError for bad input."""
    if args.list:
        _print_families(args.json)
        return 0
    with _progress_bar() as progress:
        manifest = build(
            args.out,
            find_families(args.families),
            find_families(args.train_family),
            photos=args.photos,
            scenes=args.scenes,
            size=args.size,
            count=args.count,
            train_count=args.train_count,
            seed=args.seed,
            force=args.force,
            workers=args.workers,
            progress=progress,
        )
    if args.json:
        print(json.dumps(manifest, indent=2))
    else:
        _print_summary(manifest, args.out)
    return 0


def _print_families(as_json: bool) -> None:
    if as_json:
        print(json.dumps([{**asdict(spec), "description": spec.description} for spec in FAMILIES], indent=2))
        return
    table = Table("generator", "description", title="Simulated generators")
    for spec in FAMILIES:
        table.add_row(spec.name, spec.description)
    Console().print(table)


@contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, which leaves standard output to the result."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("fitting generators", total=None)
        yield lambda done, total: bar.update(task, description="images", completed=done, total=total)


def _print_summary(manifest: dict[str, Any], out: str) -> None:
    table = Table("generator", "description", title=f"{manifest['images']} images in {out}", caption=NOTE)
    table.add_column("PSNR, dB", justify="right")
    table.add_column("train", justify="center")
    for generator in manifest["generators"]:
        trained = "yes" if generator["name"] in manifest["train_families"] else ""
        table.add_row(generator["name"], generator["description"], f"{generator['psnr_db']:.1f}", trained)
    console = Console()
    console.print(table)
    groups = ", ".join(f"{len(names)} {group}" for group, names in manifest["photographs"].items())
    console.print(f"Photographs, disjoint: {groups}. Files skipped: {len(manifest['skipped'])}.", highlight=False)
