"""`npr rank`: images by their score, and a contact sheet of both ends."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import (
    add_device,
    add_policy,
    add_precision,
    add_readers,
    add_unsure,
    add_weights,
    count_readers,
    find_device,
    find_preprocessing,
    find_weights,
    positive_int,
)
from detector.commands.lines import as_line, identity_of, not_done, open_journal
from detector.printable import printable
from detector.signals import held_back
from detector.verdicts import PRECISIONS

if TYPE_CHECKING:
    from detector.console import Meter
    from detector.detection import Detection
    from detector.models import Detector

_DESCRIPTION = """\
Score images and list them from the most fake to the least. With --sheet, also draw thumbnails of both ends: what the
detector takes for generated and what for real is seen at a glance. Verdicts are those of `npr detect`, which says why
one is unsure. Files that cannot be read come last, with their error, and the exit status is 1."""

_EPILOG = """\
examples:
  npr rank downloads --weights runs/data --sheet ends.png
  npr rank data/test/biggan --weights runs/data --json | head
"""


def add_parser(subparsers: Any) -> None:
    """Adds `rank` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "rank", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", metavar="FOLDER", nargs="+", help="folders (with subfolders), files or patterns")
    add_weights(parser)
    parser.add_argument("--sheet", metavar="FILE", help="write a contact sheet, a PNG")
    parser.add_argument(
        "--count", metavar="N", type=positive_int, default=16, help="images of either end (default: %(default)s)"
    )
    add_unsure(parser)
    add_policy(parser)
    add_precision(parser)
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_int,
        default=16,
        help="of equal sizes, on a GPU (default: %(default)s)",
    )
    add_readers(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object on each line")
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="add a line of JSON for each file to FILE, and take those that are in it: goes on where the command ended",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where a file could not be read."""
    from detector.console import Meter
    from detector.detection import detect, find_files
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.models import load_checkpoint

    keep_freed_memory()
    if args.sheet is not None:
        check_writable(args.sheet)
    model = load_checkpoint(find_weights(args.weights), find_device(args.device))
    if args.precision != PRECISIONS[0]:
        model = model.for_inference(args.precision)
    preprocessing = find_preprocessing(args, model.preprocessing)
    files = list(find_files(args.paths))
    options: dict[str, Any] = {
        "preprocessing": preprocessing,
        "batch_size": args.batch_size,
        "workers": count_readers(args),
        "exact": True,
        "unsure": not args.no_unsure,
    }
    with Meter("rank", len(files)) as meter:
        if args.resume is None:
            found = []
            for detection in detect(model, files, **options):
                found.append(detection)
                meter.advance(1)
        else:
            found = _taken_up(args, model, files, meter, options)
    ranked = [detection for detection in found if detection.error is None]
    failed = [detection for detection in found if detection.error is not None]
    ranked.sort(key=lambda detection: -(detection.score or 0.0))
    if not args.json:
        print(f"{'rank':>6}  {'score':>6}  {'verdict':7}  path")
    for rank, detection in enumerate(ranked, start=1):
        line = f"{rank:>6}  {detection.score:6.4f}  {detection.verdict:7}  {printable(detection.path)}"
        print(json.dumps({"rank": rank} | detection.to_dict()) if args.json else line)
    for detection in failed:
        line = f"{'-':>6}  {'-':>6}  {'error':7}  {printable(detection.path)}: {detection.error}"
        print(json.dumps(detection.to_dict()) if args.json else line)
    if args.sheet is not None:
        _draw(args.sheet, ranked, args.count)
    return int(bool(failed))


def _taken_up(
    args: argparse.Namespace, model: Detector, files: list[str | Detection], meter: Meter, options: dict[str, Any]
) -> list[Detection]:
    """Of every file, from the file of --resume, to which those that were not in it are added."""
    from detector.detection import Detection, detect
    from detector.evaluation import threshold_of

    policy = None if options["preprocessing"] == model.preprocessing else args.policy
    identity = identity_of(find_weights(args.weights), policy, None, args.precision)
    with open_journal(args.resume, identity, threshold=threshold_of(model), unsure=options["unsure"]) as journal:
        for detection in detect(model, not_done(files, journal, meter), **options):
            with held_back():
                journal.append(as_line(detection, identity))
            meter.advance(1)
        wanted = {file if isinstance(file, str) else file.path for file in files}
        found = {line["path"]: Detection.from_dict(line) for line in journal.lines() if line["path"] in wanted}
    return [found[file if isinstance(file, str) else file.path] for file in files]


def _draw(sheet: str, ranked: list[Detection], count: int) -> None:
    """Both ends, each image in one of them alone."""
    from detector.data import decode
    from detector.explain.contact_sheet import save_contact_sheet, thumbnail

    count = min(count, -(-len(ranked) // 2))
    ends = {f"the {count} most fake": ranked[:count], f"the {count} least fake": ranked[count:][::-1][:count]}
    groups = {
        heading: [thumbnail(decode(one.path), f"{one.score:.4f}  {Path(one.path).name}") for one in group]
        for heading, group in ends.items()
        if group
    }
    save_contact_sheet(sheet, groups)
