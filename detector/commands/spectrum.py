"""`npr spectrum`: mean spectra of the reals and the fakes of every generator."""

from __future__ import annotations

import argparse
import json
from typing import Any

from detector.commands.arguments import names, positive_int

_DESCRIPTION = """\
Draw, for every generator of a data set, the mean spectra of its reals and of its fakes after a high-pass (image minus
median blur), their ratio, and the means over all directions. Up-sampling shows as peaks and as a missing or lifted
high end. Needs no detector. Images that cannot be read or are too small are named and do not count."""

_EPILOG = """\
examples:
  npr spectrum data/test --out spectra.png
  npr spectrum ForenSynths --split test --generators stylegan,biggan --side 256 --out s.png --json s.json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `spectrum` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "spectrum", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="FOLDER", help="folder of real and generated images, by generator")
    parser.add_argument("--out", metavar="FILE", required=True, help="the picture, a PNG")
    parser.add_argument("--json", metavar="FILE", help="write the means over all directions, by frequency")
    parser.add_argument(
        "--side", metavar="PX", type=positive_int, default=128, help="of the spectra (default: %(default)s)"
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="of the data set (default: test if there is one, else all)"
    )
    parser.add_argument("--generators", metavar="A,B", type=names, help="these alone")
    parser.add_argument("--classes", metavar="A,B", type=names, help="these alone")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from detector.console import say
    from detector.data import FAKE, REAL, find_images, has_split
    from detector.explain import mean_spectra, radial_profile
    from detector.explain.figures import new_figure, save_figure, spectra_figure
    from detector.files import check_writable, write_text

    if args.side < 8:
        raise ValueError(f"--side must be at least 8 pixels, got {args.side}")
    new_figure(1, 1)  # says before the work that matplotlib is missing
    for target in (args.out, args.json):
        if target is not None:
            check_writable(target)
    split = args.split or ("test" if has_split(args.data, "test") else None)
    collection = find_images(args.data, split).select(categories=args.classes, generators=args.generators)
    say(collection.describe())
    spectra, skipped = mean_spectra(collection, args.side, verbose=True)
    for reason in skipped:
        say(f"skipped {reason}")
    if not spectra:
        raise ValueError(f"no readable image of at least {args.side}x{args.side} pixels in {args.data}; see --side")
    title = f"mean spectra of what a median filter takes away, {args.side} x {args.side}"
    save_figure(spectra_figure(spectra, title), args.out)
    if args.json is not None:
        label_names = {REAL: "real", FAKE: "fake"}
        generators = {
            generator: {
                label_names[label]: {"images": mean.images, "profile": radial_profile(mean.magnitude).tolist()}
                for label, mean in of_label.items()
            }
            for generator, of_label in spectra.items()
        }
        frequencies = [i / args.side for i in range(args.side // 2 + 1)]
        write_text(args.json, json.dumps({"frequencies": frequencies, "generators": generators}, indent=2) + "\n")
    print(args.out)
    return 0
