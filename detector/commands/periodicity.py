"""`npr periodicity`: to a trained network, what the whole image says."""

from __future__ import annotations

import argparse
import json
from typing import Any

from detector.commands.arguments import find_weights, fraction, natural_int, positive_int
from detector.training.recipes import DELIVERIES, SHARE

_DESCRIPTION = """\
Add to a trained detector what the whole image says: how coherent the strength of detail is, at all periods of 8x8
pixels. It finds lattices that are too weak for the network's windows. A logistic regression is fitted to a data set,
its train split where it has one; the network stays as it is, and counts for a share. The checkpoint's threshold is one
half again and its calibration is gone: `npr calibrate` finds others.

Fit it to what really went through generators. Closed-form generators leave lattices stronger than any real one's."""

_EPILOG = """\
examples:
  npr periodicity runs/data --data data --out detector.safetensors
  npr periodicity best.safetensors --data data --out detector.safetensors --share 0.25 --json
"""


def add_parser(subparsers: Any) -> None:
    """Adds `periodicity` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "periodicity", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "weights", metavar="FILE", help="checkpoint of an NPRDetector, or the folder of a training, whose best is taken"
    )
    parser.add_argument("--data", metavar="FOLDER", required=True, help="real and fake images, as npr train takes them")
    parser.add_argument("--out", metavar="FILE", required=True, help="the new checkpoint, .safetensors")
    parser.add_argument(
        "--share", metavar="S", type=fraction, default=SHARE, help="of the network's logit (default: %(default)s)"
    )
    parser.add_argument(
        "--deliveries",
        metavar="N",
        type=positive_int,
        default=DELIVERIES,
        help="windows of each image, compressed at random (default: %(default)s)",
    )
    parser.add_argument("--seed", metavar="N", type=natural_int, default=100, help="of these (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    from detector.console import say
    from detector.data import find_images, has_split
    from detector.evaluation import compute_metrics, score_collection
    from detector.files import check_writable
    from detector.memory import keep_freed_memory
    from detector.models import NPRDetector, load_checkpoint, read_metadata, save_checkpoint
    from detector.training.periodicity import fit_periodicity

    check_writable(args.out)
    keep_freed_memory()
    weights = find_weights(args.weights)
    network = load_checkpoint(weights)
    if not isinstance(network, NPRDetector):
        raise ValueError(f"{weights}: a {type(network).__name__}, and only an NPRDetector can read periodicity")
    if network.periodicity is not None:
        raise ValueError(f"{weights}: reads periodicity already: add it to the network alone")
    split = "train" if has_split(args.data, "train") else None
    whole = fit_periodicity(
        find_images(args.data, split), seed=args.seed, deliveries=args.deliveries, verbose=not args.json
    )
    model = network.with_periodicity(whole, args.share)
    fitted = {"data": args.data, "share": args.share, "deliveries": args.deliveries, "seed": args.seed}
    metadata = read_metadata(weights)
    about = {name: metadata[name] for name in ("recipe", "epoch", "step") if name in metadata}
    save_checkpoint(args.out, model, **about, periodicity=fitted)
    result: dict[str, Any] = {"checkpoint": args.out, **fitted}
    if has_split(args.data, "val"):
        validation = find_images(args.data, "val")
        for name, each in (("network", network), ("both", model)):
            scores = score_collection(each, validation, task=name)
            result[name] = compute_metrics(scores.labels, scores.scores).average_precision
    if args.json:
        print(json.dumps(result))
    else:
        if "both" in result:
            say(f"average precision on the val split: {result['network']:.1%}, now {result['both']:.1%}")
        say(f"{args.out}: written")
    return 0
