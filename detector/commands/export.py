"""`npr export`: a detector for an inference engine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.box import DEFAULT
from detector.commands.arguments import UsageError, find_weights, positive_int
from detector.export import FORMATS
from detector.printable import printable

if TYPE_CHECKING:
    from detector.export.checking import Agreement

_DESCRIPTION = """\
Write a detector for ONNX Runtime, OpenVINO or torch's AOTInductor. Decoded images go in as they are, uint8 [batch, 3,
height, width], any number of any size from 18 pixels a side (from 2 without what the whole image says); logit and score
come out. Normalisation, residual and batch norms are in the weights of plain convolutions, so that no engine needs an
operator of ours. The file says how images are treated, the threshold, its calibration, and which checkpoint it was made
of, by SHA-256.

With --check, image files are scored by the model and by the file just written. Where a logit differs by more than
0.0001, or a file cannot be read, the exit status is 1. An AOTInductor archive holds code for the machine that it was
written on, and takes a C++ compiler and a minute."""

_EPILOG = """\
examples:
  npr export --format onnx
  npr export runs/data --format openvino --out detector.xml --check photos/
  npr export best.safetensors --format aoti --json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `export` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "export", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights",
        metavar="FILE",
        nargs="?",
        default=DEFAULT,
        help="checkpoint: .safetensors, an original .pth, or the folder of a training, whose best is taken "
        "(default: the one in the package)",
    )
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="(default: %(default)s)")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"what to write, named {', '.join(f'*{suffix}' for suffix in FORMATS.values())} by format; with an .xml "
        "comes a .bin (default: the checkpoint's name, in this folder)",
    )
    parser.add_argument(
        "--check", metavar="IMAGES", nargs="+", help="files, folders or patterns to compare model and engine on"
    )
    parser.add_argument("--threads", metavar="N", type=positive_int, help="of the engine, in --check")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where --check found a difference or could not read a file."""
    if args.threads is not None and args.check is None:
        raise UsageError("--threads goes with --check")
    from detector.export.exported import check_suffix, save_exported
    from detector.files import check_writable, sha256_of
    from detector.models import load_checkpoint

    weights = find_weights(args.weights)
    target = Path(weights.stem + FORMATS[args.format] if args.out is None else args.out)
    check_suffix(target, args.format)
    check_writable(target)
    model = load_checkpoint(weights)
    checkpoint = sha256_of(weights)
    save_exported(model, target, args.format, checkpoint=checkpoint)
    agreement = None if args.check is None else _check(model, target, args)
    if args.json:
        written = {"file": str(target), "format": args.format, "sha256": sha256_of(target), "checkpoint": checkpoint}
        print(json.dumps(written if agreement is None else written | {"check": agreement.to_dict()}, indent=2))
    else:
        print(f"{printable(str(target))}: {args.format}, of the checkpoint {checkpoint}")
        if agreement is not None:
            print("\n".join(_lines(agreement)))
    return int(agreement is not None and not (agreement.within_bounds and not agreement.errors))


def _check(model: Any, target: Path, args: argparse.Namespace) -> Agreement:
    from detector.console import Meter
    from detector.detection import find_files
    from detector.export.checking import Agreement, differences
    from detector.export.exported import load_exported
    from detector.memory import keep_freed_memory

    keep_freed_memory()
    files = list(find_files(args.check))
    found = []
    with Meter("checking", len(files)) as meter:
        for difference in differences(model, load_exported(target, args.threads), files):
            found.append(difference)
            meter.advance(1)
    return Agreement.of(found)


def _lines(agreement: Agreement) -> list[str]:
    return [
        *(f"{printable(path)}: {error}" for path, error in agreement.errors.items()),
        f"checked on {agreement.images} images: largest difference of logits {agreement.logit:.1e}, of scores "
        f"{agreement.score:.1e}; verdicts that differ: {agreement.verdicts}",
    ]
