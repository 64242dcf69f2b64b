"""`npr detect`: verdicts on image files."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import (
    add_device,
    add_policy,
    add_weights,
    find_device,
    find_preprocessing,
    find_weights,
    fraction,
    positive_int,
)
from detector.printable import printable
from detector.verdicts import INTERVAL_CONFIDENCE

if TYPE_CHECKING:
    from pathlib import Path

    from detector.detection import Detection
    from detector.facts import Facts

_DESCRIPTION = """\
Say of every image how likely it is generated: a score from 0 (real) to 1 (fake), and the verdict, fake above the
detector's threshold; for detectors that `npr calibrate` has learnt it for, also the log10 likelihood ratio of fake over
real. A file that cannot be read gets a line with its error, the others go on, and the exit status is 1.

Of an image of more than a megapixel, windows are read until its verdict is certain, with the confidence of
--confidence, or half of it is read; then, and with --exact at once, all of it is. A line below tells how much of an
image was read, where that is not all, and where the whole image's score lies.

With --facts, what each file itself says of its making stands beside the score: format, size, compression, camera,
software, C2PA and IPTC provenance, texts of generators. Score and verdict do not depend on it: such facts are easily
removed and easily forged."""

_EPILOG = """\
examples:
  npr detect photo.jpg
  npr detect holiday/ 'downloads/**/*.png' --weights best.safetensors --facts
  find . -name '*.webp' | npr detect - --weights best.safetensors --json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `detect` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "detect", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="files, folders (with subfolders), patterns, or - for a list on standard input, a path on each line",
    )
    add_weights(parser)
    parser.add_argument(
        "--threshold", metavar="X", type=fraction, help="call fake what scores above X (default: the detector's own)"
    )
    add_policy(parser)
    reading = parser.add_mutually_exclusive_group()
    reading.add_argument("--exact", action="store_true", help="read all of large images, not just what a verdict takes")
    reading.add_argument(
        "--confidence",
        metavar="C",
        type=fraction,
        default=INTERVAL_CONFIDENCE,
        help="that the score of all of an image lies in the interval found from a part (default: %(default)s)",
    )
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_int,
        default=16,
        help="of equal sizes, on a GPU (default: %(default)s)",
    )
    add_device(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="a JSON object on each line, with what gave the score: file and model by SHA-256, decoder, versions",
    )
    parser.add_argument(
        "--facts",
        action="store_true",
        help="beside each score, what the file says of its making: lines under it, or the object `facts` of --json",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where a file could not be read."""
    from detector.detection import detect, find_files
    from detector.evaluation import llr_of
    from detector.memory import keep_freed_memory
    from detector.models import load_checkpoint

    keep_freed_memory()
    weights = find_weights(args.weights)
    model = load_checkpoint(weights, find_device(args.device))
    identity = _identity(weights) if args.json else {}
    preprocessing = find_preprocessing(args, model.preprocessing)
    files = find_files(_arguments(args.paths))
    failed = False
    with_llr = preprocessing == model.preprocessing and llr_of(model) is not None
    if not args.json:
        print(f"{'score':>6}  {'verdict':7}  {'log LR  ' * with_llr}{'size':>11}  path")
    for detection in detect(
        model,
        files,
        preprocessing=preprocessing,
        threshold=args.threshold,
        batch_size=args.batch_size,
        exact=args.exact,
        confidence=args.confidence,
    ):
        failed |= detection.error is not None
        facts = _facts(detection) if args.facts else None
        if args.json:
            print(json.dumps(_object(detection, identity, facts)), flush=True)
        else:
            lines = [_row(detection, with_llr), *_reading_lines(detection), *_fact_lines(facts)]
            print("\n".join(lines), flush=True)
    return int(failed)


def _arguments(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        else:
            yield path


def _facts(detection: Detection) -> Facts | None:
    """Of the file, decodable or not; None where the argument means no file."""
    from detector.facts import read_facts

    return read_facts(detection.path) if os.path.isfile(detection.path) else None


def _identity(weights: Path) -> dict[str, Any]:
    """What gave the scores: enough to tell two stored lines apart, each by itself, and to get either again."""
    import torch

    from detector.data import find_decoder
    from detector.files import sha256_of
    from npr_kernels import __version__

    return {
        "model": sha256_of(weights),
        "decoder": str(find_decoder()),
        "versions": {"npr-kernels": __version__, "torch": torch.__version__},
    }


def _object(detection: Detection, identity: dict[str, Any], facts: Facts | None) -> dict[str, Any]:
    found = detection.to_dict() | (identity if detection.error is None else {})
    return found if facts is None else found | {"facts": facts.to_dict()}


def _reading_lines(detection: Detection) -> list[str]:
    if detection.interval is None:
        return []
    low, high = detection.interval
    return [f"{'':8}read: {100 * detection.read:.2g} %, which gives the whole a score of {low:.4f} to {high:.4f}"]


def _fact_lines(facts: Facts | None) -> list[str]:
    from detector.facts import as_lines

    return [] if facts is None else [f"{'':8}{line}" for line in as_lines(facts)]


def _row(detection: Detection, with_llr: bool) -> str:
    path = printable(detection.path)
    evidence = f"{'-' if detection.llr is None else f'{detection.llr:+.2f}':>6}  " * with_llr
    if detection.error is not None:
        return f"{'-':>6}  {'error':7}  {evidence}{'-':>11}  {path}: {detection.error}"
    size = f"{detection.width}x{detection.height}"
    return f"{detection.score:6.4f}  {detection.verdict:7}  {evidence}{size:>11}  {path}"
