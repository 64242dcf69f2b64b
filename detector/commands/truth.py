"""`npr truth`: what a detector is worth, whatever format, size and counts would make of it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import count_readers, find_device, find_preprocessing
from detector.commands.measuring import Named, add_measuring, find_collection, load_detectors, score_file

if TYPE_CHECKING:
    from detector.data import Collection, Delivery
    from detector.evaluation import Pool, ScoreFile, Truth

DELIVERIES = ("crop:256", "crop:256,jpeg:80")
"""By default: crops make sizes alike (but of images that are smaller), and JPEG makes formats alike."""

SETTINGS = "measure.json"

_DESCRIPTION = f"""\
Measure detectors so that format, size, compression and counts cannot flatter them. Reals and fakes alike pass a
delivery ({" and ".join(DELIVERIES)} by default). Every source of fakes is measured against its own reals and against
pools of reals of one history: balanced average precision (AP with both labels weighing one half) and the share of fakes
found at the detector's threshold. Every folder of reals is measured by itself: the share called fake, with its exact
95 % interval (Clopper and Pearson). A folder may hold reals alone or fakes alone.

By default, two pools are told by the files' headers: lossless, the folders of reals of which every file is PNG, TIFF,
BMP or lossless WebP, and jpeg, those with JPEG files. Headers do not say what an image was before. Who knows more names
the pools, with --reals or in DATA/{SETTINGS}:
  {{"delivery": ["crop:256"], "reals": {{"lossless": ["kodak24", "crops/0_real/mcm_*"], "web": ["photos"]}}}}"""

_EPILOG = """\
examples:
  npr truth data --weights runs/data
  npr truth data --weights runs/data --reals 'lossless=kodak24,crops/0_real/mcm_*' --reals web=photos --html truth.html
  npr truth data --weights a=runs/a b=runs/b --delivery none jpeg:80:420 resize:0.5:lanczos --json truth.json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `truth` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "truth", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_measuring(parser)
    add_delivery_and_reals(parser)
    parser.add_argument("--csv", metavar="FILE", help="write the tables, in percent; - for standard output")
    parser.add_argument("--json", metavar="FILE", help="write the results, as fractions; - for standard output")
    parser.add_argument("--html", metavar="FILE", help="write a report with tables and plots")
    parser.set_defaults(run=run)


def add_delivery_and_reals(parser: argparse.ArgumentParser) -> None:
    """What images pass before they are scored, the reals that fakes are measured against, and withheld verdicts."""
    parser.add_argument(
        "--delivery",
        metavar="TEXT",
        nargs="+",
        help="what reals and fakes alike pass before they are scored: none, png, jpeg:80:420, webp:75, "
        "resize:0.5:lanczos, crop:256, or several joined by commas; one measurement for each TEXT",
    )
    parser.add_argument(
        "--reals",
        metavar="[NAME=]DIR[,DIR...]",
        action="append",
        help="measure every source of fakes against these reals: folders, those of DATA by their name, or patterns "
        "such as photos/0_real/a_*; may be given again for another pool",
    )
    parser.add_argument(
        "--abstain",
        action="store_true",
        help="also say how many of each folder npr detect is unsure of, what is wrong among the rest, and which signs "
        "of doubt are worth more than the score's own, by the area under risk-coverage curves",
    )


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where no image could be read."""
    from detector.evaluation import parse_pools

    deliveries, reals = _read_settings(Path(args.data) / SETTINGS)
    return run_truth(
        args,
        deliveries=args.delivery or deliveries or DELIVERIES,
        reals=parse_pools(args.reals) if args.reals else reals,
        abstain=args.abstain,
    )


def run_truth(
    args: argparse.Namespace,
    *,
    deliveries: Sequence[str],
    reals: Mapping[str, Sequence[str]] | None,
    abstain: bool = False,
) -> int:
    """Measures the detectors of the arguments, and shows and writes the results.

    Args:
        args: of :func:`detector.commands.measuring.add_measuring`, and csv, json and html.
        deliveries: as text.
        reals: items by the name of their pool; None for pools told by the files' headers.
        abstain: also measure which verdicts are withheld.

    Returns:
        The exit status: 1 where no image could be read.
    """
    from detector.console import say
    from detector.data import Delivery
    from detector.evaluation import as_truth_csv, as_truth_tables, print_table
    from detector.evaluation.results import as_results
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.report import check_figures, write_report

    keep_freed_memory()
    for target in (args.csv, args.json, args.html):
        if target not in (None, "-"):
            check_writable(target)
    if args.html is not None:
        check_figures()
    parsed = list(dict.fromkeys(Delivery.parse(text) for text in deliveries))
    collection, pools = _images(args, reals)
    detectors = load_detectors(args.weights, find_device(args.device), args.precision)
    with score_file(args, detectors) as scores:
        truths = [
            _measure(args, detector, collection, pools, parsed, scores, told_by_headers=reals is None, abstain=abstain)
            for detector in detectors
        ]
    bad = {image.path: image.reason for truth in truths for image in truth.bad}
    for path, reason in bad.items():
        say(f"skipped {path}: {reason}")
    for remark in dict.fromkeys(remark for truth in truths for remark in truth.remarks):
        say(remark)
    if "-" not in (args.csv, args.json):
        for truth in truths:
            for table in as_truth_tables(truth):
                print_table(table)
    results = [truth.to_dict() for truth in truths]
    if args.csv is not None:
        write_result(args.csv, as_truth_csv(*truths))
    if args.json is not None:
        write_result(args.json, as_results(results))
    if args.html is not None:
        write_report(args.html, f"The truth on {args.data}", results)
    return int(not any(truth.images for truth in truths))


def write_result(target: str, text: str) -> None:
    """To a file, whole or not at all, or - for standard output."""
    from detector.files import write_text

    if target == "-":
        sys.stdout.write(text)
    else:
        write_text(target, text)


def _images(args: argparse.Namespace, reals: Mapping[str, Sequence[str]] | None) -> tuple[Collection, list[Pool]]:
    """The images to measure on, those of the pools among them; says what was found."""
    from detector.console import say
    from detector.evaluation import draw_pool, draw_subset, find_pool, pools_by_encoding, with_pools
    from detector.evaluation.encodings import count_encodings

    found = find_collection(args).select(categories=args.classes)
    if reals is None:
        pools = pools_by_encoding(found)
    else:
        pools = [find_pool(name, items, found) for name, items in reals.items()]
    # Pools do not depend on which generators are measured.
    found = found.select(generators=args.generators)
    if args.limit is not None:
        pools = [draw_pool(pool, found, args.limit, args.seed) for pool in pools]
        found = draw_subset(found, args.limit, args.seed)
    collection = with_pools(found, pools)
    say(collection.describe())
    for pool in pools:
        parts = (
            f"{part} ({', '.join(f'{count} {encoding}' for encoding, count in count_encodings(paths).items())})"
            for part, paths in pool.parts.items()
        )
        say(f"pool {pool.name}: {', '.join(parts)}")
    if not pools:
        say("no pool of reals: sources are measured against their own reals alone")
    return collection, pools


def _measure(
    args: argparse.Namespace,
    detector: Named,
    collection: Collection,
    pools: Sequence[Pool],
    deliveries: Sequence[Delivery],
    scores: ScoreFile | None,
    *,
    told_by_headers: bool,
    abstain: bool,
) -> Truth:
    from detector.evaluation import measure_truth

    return measure_truth(
        detector.model,
        collection,
        pools,
        deliveries,
        preprocessing=find_preprocessing(args, detector.model.preprocessing),
        batch_size=args.batch_size,
        workers=count_readers(args),
        seed=args.seed,
        told_by_headers=told_by_headers,
        abstain=abstain,
        name=detector.name,
        weights=str(detector.weights),
        command=args.command_line,
        resume=scores,
        verbose=True,
    )


def _read_settings(path: Path) -> tuple[list[str], dict[str, list[str]] | None]:
    """Deliveries, and items by the name of their pool, None where there are none or no file.

    Raises:
        ValueError: the file is not such a file.
    """
    if not path.is_file():
        return [], None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(content, dict):
        content = {"": content}
    deliveries, reals = content.get("delivery", []), content.get("reals", {})
    if (
        not content.keys() <= {"delivery", "reals"}
        or not _is_texts(deliveries)
        or not isinstance(reals, dict)
        or not all(map(_is_texts, reals.values()))
    ):
        raise ValueError(f'{path}: wants {{"delivery": [TEXT, ...], "reals": {{NAME: [DIR, ...], ...}}}}')
    return deliveries, reals or None


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) and text for text in value)
