"""`npr detect`: verdicts on image files."""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

from detector.commands.arguments import (
    add_device,
    add_judging,
    add_readers,
    add_weights,
    count_readers,
    find_device,
    find_preprocessing,
    find_weights,
    positive_int,
)
from detector.commands.lines import as_line, identity_of, not_done, open_journal
from detector.importing import nothing_to_collect
from detector.printable import printable
from detector.signals import held_back
from detector.verdicts import PRECISIONS

if TYPE_CHECKING:
    from detector.console import Meter
    from detector.detection import Detection
    from detector.facts import Facts

_DESCRIPTION = """\
Say of every image how likely it is generated: a score from 0 (real) to 1 (fake), and the verdict, fake above the
detector's threshold; for detectors that `npr calibrate` has learnt it for, also the log10 likelihood ratio of fake over
real. A file that cannot be read gets a line with its error, the others go on, and the exit status is 1.

The verdict is unsure, and lines below say why, where the file gives reason to doubt it (fewer pixels a side than the
detector was trained on, JPEG of a lower quality than it was calibrated or trained on, signs of resizing, hardly any
texture), or where the score is too near the threshold or no evidence for its side. --no-unsure leaves that out; scores
are the same either way.

Of an image of more than a megapixel, windows are read until its verdict is certain, and whether its score is enough
for it, with the confidence of --confidence; or until half of it is read; then, and with --exact at once, all of it is.
A line below tells how much of an image was read, where that is not all, and where the whole image's score lies.

With --facts, what each file itself says of its making stands beside the score: format, size, compression, camera,
software, C2PA and IPTC provenance, texts of generators. Score and verdict do not depend on it: such facts are easily
removed and easily forged.

With --resume FILE, results go to FILE in place of standard output, as lines of JSON. However the command ended, it goes
on where it was when it is given again: paths that have a line in FILE are skipped, whatever became of the file there,
and a path given twice gets one line. A FILE of another model, decoder, version or setting is refused."""

_EPILOG = """\
examples:
  npr detect photo.jpg
  npr detect holiday/ 'downloads/**/*.png' --weights best.safetensors --facts
  find . -name '*.webp' | npr detect - --weights best.safetensors --json
  npr detect archive/ --resume archive.jsonl --unordered
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
    add_judging(parser)
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_int,
        default=16,
        help="of equal sizes, on a GPU (default: %(default)s)",
    )
    add_readers(parser)
    parser.add_argument("--unordered", action="store_true", help="results as they are there, in any order")
    add_device(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="a JSON object on each line, with what gave the score: file and model by SHA-256, decoder, versions",
    )
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="add lines of JSON to FILE, .jsonl by custom, and skip the paths that are in it",
    )
    parser.add_argument(
        "--facts",
        action="store_true",
        help="beside each score, what the file says of its making: lines under it, or the object `facts` of --json",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where a file could not be read."""
    with nothing_to_collect():
        from detector.console import Meter, messages
        from detector.detection import detect, find_files
        from detector.evaluation import llr_of, threshold_of
        from detector.memory import keep_freed_memory
        from detector.models import load_checkpoint

    keep_freed_memory()
    weights = find_weights(args.weights)
    model = load_checkpoint(weights, find_device(args.device))
    if args.precision != PRECISIONS[0]:
        model = model.for_inference(args.precision)
    preprocessing = find_preprocessing(args, model.preprocessing)
    own = preprocessing == model.preprocessing
    threshold = threshold_of(model) if args.threshold is None else args.threshold
    identity = {}
    if args.json or args.resume is not None:
        identity = identity_of(
            weights, None if own else args.policy, None if args.exact else args.confidence, args.precision
        )
    with_llr = own and llr_of(model) is not None
    files = find_files(_arguments(args.paths))
    failed = False
    with ExitStack() as stack:
        journal = None
        if args.resume is not None:
            settings = {"threshold": threshold, "facts": args.facts, "unsure": not args.no_unsure}
            journal = stack.enter_context(open_journal(args.resume, identity, **settings))
        # Lines on a terminal are progress enough, and a bar would come between them.
        verbose = messages.is_terminal and (journal is not None or not sys.stdout.isatty())
        meter = stack.enter_context(Meter("detect", None, verbose=verbose))
        if verbose and "-" not in args.paths:
            threading.Thread(target=_count, args=(meter, args.paths), daemon=True).start()
        if journal is not None:
            files = not_done(files, journal, meter)
        elif not args.json:
            print(f"{'score':>6}  {'verdict':7}  {'log LR  ' * with_llr}{'size':>11}  path")
        detections = detect(
            model,
            files,
            preprocessing=preprocessing,
            threshold=threshold,
            batch_size=args.batch_size,
            workers=count_readers(args),
            ordered=not args.unordered,
            unsure=not args.no_unsure,
            exact=args.exact,
            confidence=args.confidence,
        )
        for detection in stack.enter_context(closing(detections)):
            failed |= detection.error is not None
            facts = _facts(detection) if args.facts else None
            with held_back():
                if journal is not None:
                    journal.append(as_line(detection, identity, facts))
                elif args.json:
                    print(json.dumps(as_line(detection, identity, facts)), flush=True)
                else:
                    below = [*detection.remarks, *_fact_lines(facts)]
                    print("\n".join([_row(detection, with_llr), *(f"{'':8}{line}" for line in below)]), flush=True)
            meter.advance(1)
    return int(failed if journal is None else journal.failed > 0)


def _arguments(paths: list[str]) -> Iterator[str]:
    for path in paths:
        if path == "-":
            yield from (line.rstrip("\r\n") for line in sys.stdin if line.strip())
        else:
            yield path


def _count(meter: Meter, paths: list[str]) -> None:
    """Tells the meter, beside the work, how many files there are: finding them takes long where there are many."""
    from detector.detection import find_files

    meter.total = sum(1 for _ in find_files(paths))


def _facts(detection: Detection) -> Facts | None:
    """Of the file, decodable or not; None where the argument means no file."""
    from detector.facts import read_facts

    return read_facts(detection.path) if os.path.isfile(detection.path) else None


def _fact_lines(facts: Facts | None) -> list[str]:
    from detector.facts import as_lines

    return [] if facts is None else list(as_lines(facts))


def _row(detection: Detection, with_llr: bool) -> str:
    path = printable(detection.path)
    evidence = f"{'-' if detection.llr is None else f'{detection.llr:+.2f}':>6}  " * with_llr
    if detection.error is not None:
        return f"{'-':>6}  {'error':7}  {evidence}{'-':>11}  {path}: {detection.error}"
    size = f"{detection.width}x{detection.height}"
    return f"{detection.score:6.4f}  {detection.verdict:7}  {evidence}{size:>11}  {path}"
