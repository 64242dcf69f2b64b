"""`npr explain`: why the detector says what it says of an image, as one picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from detector.commands.arguments import (
    add_device,
    add_policy,
    add_unsure,
    add_weights,
    find_device,
    find_preprocessing,
    find_weights,
    fraction,
)
from detector.printable import printable

_DESCRIPTION = """\
Draw for every image one picture, OUT/NAME.png: the image, the class activation map (red speaks for generated, blue for
real; the local logits' mean is the image's logit, exactly), the saliency (how much each pixel moves the network's
logit), the NPR residual, the part of it where the evidence is strongest, magnified, and the spectrum of what a median
filter takes away. Score and verdict above it are those of `npr detect`, and so are the reasons below them where it is
unsure. A file that cannot be read gets a line with its error, the others go on, and the exit status is 1."""

_EPILOG = """\
examples:
  npr explain photo.jpg --weights runs/data --out why
  npr explain 'downloads/*.png' --weights NPR.pth --policy native --out why --json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `explain` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "explain", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", metavar="IMAGE", nargs="+", help="files, folders (with subfolders) or patterns")
    add_weights(parser)
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the pictures, made where it is missing")
    parser.add_argument(
        "--threshold", metavar="X", type=fraction, help="call fake what scores above X (default: the detector's own)"
    )
    add_unsure(parser)
    add_policy(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="a JSON object on each line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status: 1 where a file could not be read."""
    from detector.data import ImageError, decode
    from detector.detection import Detection, detect, find_files
    from detector.explain import explain
    from detector.explain.figures import explanation_figure, new_figure, save_figure
    from detector.memory import keep_freed_memory
    from detector.models import load_checkpoint

    keep_freed_memory()
    new_figure(1, 1)  # says before the work that matplotlib is missing
    model = load_checkpoint(find_weights(args.weights), find_device(args.device))
    preprocessing = find_preprocessing(args, model.preprocessing)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    used: set[str] = set()
    failed = False
    # Scores are those of `npr detect`, bit for bit; what explains one passes other code, and rounds otherwise.
    detections = detect(
        model, find_files(args.paths), preprocessing=preprocessing, threshold=args.threshold, unsure=not args.no_unsure
    )
    for detection in detections:
        picture = None
        if detection.error is None:
            try:
                image = preprocessing.test_view(decode(detection.path))
            except ImageError as error:  # it was there a moment ago
                detection = Detection(detection.path, error=error.reason)
            else:
                picture = out / _unused(Path(detection.path).stem, used)
                title = f"{Path(detection.path).name}: {detection.verdict}, score {detection.score:.4f}"
                figure = explanation_figure(image, explain(model, image), title, detection.remarks)
                save_figure(figure, picture)
        failed |= detection.error is not None
        _report(detection, picture, args.json)
    return int(failed)


def _unused(stem: str, used: set[str]) -> str:
    """A file name for the picture; images of one name in several folders are numbered."""
    name, number = f"{stem}.png", 1
    while name in used:
        number += 1
        name = f"{stem}-{number}.png"
    used.add(name)
    return name


def _report(detection: Any, picture: Path | None, as_json: bool) -> None:
    if as_json:
        print(json.dumps(detection.to_dict() | ({} if picture is None else {"picture": str(picture)})), flush=True)
    elif picture is None:
        print(f"npr: {printable(detection.path)}: {detection.error}", file=sys.stderr)
    else:
        row = f"{detection.score:6.4f}  {detection.verdict:7}  {printable(detection.path)} -> {printable(str(picture))}"
        print("\n".join([row, *(f"{'':8}{line}" for line in detection.remarks)]), flush=True)
