"""`npr train`: trains a detector on a data set, and goes on with a training that was interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from detector.commands.arguments import (
    add_device,
    default_workers,
    find_device,
    fraction,
    names,
    natural_int,
    positive_float,
    positive_int,
)
from detector.training.recipes import AUGMENTATIONS, DEFAULT, RECIPES

_DESCRIPTION = """\
Train a detector. The train split of DATA is trained on and its val split validated on after every epoch; without them,
all of DATA, with a part held out. The run's folder gets the best and the last checkpoint, a log (JSON lines, and
TensorBoard where it is installed) and the state from which --resume goes on, to the same weights as if nothing had
happened."""

_EPILOG = """\
examples:
  npr train data                                     small native crops, minutes on a CPU
  npr train data --resume                            go on where it was killed
  npr train ForenSynths --recipe npr --classes car,cat,chair,horse --device cuda --workers 8
  npr train ForenSynths --recipe cnndetection --imagenet resnet50.pth --augment blur+jpeg-0.1
  npr train data --augment jpeg --jpeg-encoders pillow     NPR, made robust to JPEG
  npr train data --augment delivery                        and to what web sites do to pictures
  npr train data --patch 4 --mode mean                     the paper's ablations
  torchrun --nproc-per-node 8 -m detector.cli train data --device cuda     a share of every batch on each of 8 GPUs
"""

# Options that a resumed run takes from its config.json where they are not given.
_SHAPING = (
    "classes",
    "generators",
    "balanced",
    "val_fraction",
    "imagenet",
    "seed",
    "amp",
    "accumulate",
    "validate_every",
)
_OF_RECIPE = (
    "policy", "crop", "batch_size", "epochs", "learning_rate", "residual", "patch", "anchor", "mode", "luma", "pooling",
    "jpeg_encoders",
)  # fmt: skip


def add_parser(subparsers: Any) -> None:
    """Adds `train` to the command line's sub-parsers."""
    parser = subparsers.add_parser(
        "train", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", metavar="DATA", help="folder of real and generated images")
    parser.add_argument("--out", metavar="DIR", help="the run's folder (default: runs/NAME, NAME that of DATA)")
    existing = parser.add_mutually_exclusive_group()
    existing.add_argument("--resume", action="store_true", help="go on with the run in --out, with its own options")
    existing.add_argument("--force", action="store_true", help="replace the run in --out")

    recipe = parser.add_argument_group("recipe")
    recipe.add_argument(
        "--recipe",
        choices=RECIPES,
        help="default: NPR on native crops; npr, cnndetection: as in the papers (default: default)",
    )
    recipe.add_argument("--policy", choices=("native", "resize", "centre"), help="resizing and cropping of images")
    recipe.add_argument("--crop", metavar="PX", type=positive_int, help=f"side of crops (default: {DEFAULT.crop})")
    recipe.add_argument(
        "--batch-size", metavar="N", type=positive_int, help=f"images in a step (default: {DEFAULT.batch_size})"
    )
    recipe.add_argument("--epochs", metavar="N", type=positive_int, help=f"(default: {DEFAULT.epochs})")
    recipe.add_argument(
        "--lr",
        metavar="X",
        type=positive_float,
        dest="learning_rate",
        help=f"Adam's learning rate at the start (default: {DEFAULT.learning_rate:g})",
    )
    recipe.add_argument(
        "--augment",
        choices=AUGMENTATIONS,
        help="blur and JPEG compression of training images, each with probability 0.5 or the one in the name; or "
        "delivery: two in three shrunk, shifted, or compressed as JPEG or WebP, once or twice "
        "(default: none; cnndetection: blur+jpeg-0.5)",
    )
    recipe.add_argument(
        "--jpeg-encoders", metavar="A,B", type=names, help="opencv, pillow or both at random (default: both)"
    )
    recipe.add_argument(
        "--residual",
        choices=("npr", "haar", "npr+haar"),
        help="of 2x2 cells: pixels minus the top-left one, SAFE's diagonal Haar band, or both (default: npr)",
    )
    recipe.add_argument("--patch", metavar="PX", type=positive_int, help="side of NPR's cells (default: 2)")
    recipe.add_argument(
        "--anchor", metavar="N", type=natural_int, help="pixel of a cell that the others are compared with (default: 0)"
    )
    recipe.add_argument(
        "--mode", choices=("pixel", "mean", "max"), help="compare with the anchor, or the cell's mean or maximum"
    )
    recipe.add_argument("--luma", action="store_true", default=None, help="read luma alone of the residual's channels")
    recipe.add_argument(
        "--pooling",
        metavar="HOW",
        help="mean, or top-10%%: the mean of the largest tenth of the local logits (default: mean)",
    )
    recipe.add_argument(
        "--imagenet", metavar="FILE", help="ResNet-50 weights of torchvision that cnndetection starts from"
    )

    data = parser.add_argument_group("data")
    data.add_argument("--classes", metavar="A,B", type=names, help="train on these classes alone")
    data.add_argument("--generators", metavar="A,B", type=names, help="train on these generators alone")
    data.add_argument(
        "--balanced", action="store_true", default=None, help="as many reals as fakes in every epoch, drawn anew"
    )
    data.add_argument(
        "--val-fraction",
        metavar="X",
        type=fraction,
        help="of the training images, held out where DATA has no val split (default: 0.1)",
    )

    machine = parser.add_argument_group("run")
    machine.add_argument("--seed", metavar="N", type=natural_int, help="of weights, order and crops (default: 100)")
    add_device(machine)
    machine.add_argument("--amp", action="store_true", default=None, help="compute in bfloat16 where it is safe")
    machine.add_argument(
        "--accumulate",
        metavar="N",
        type=positive_int,
        help="compute batches in N parts, in as much less memory; batch norms see the parts (default: 1)",
    )
    machine.add_argument(
        "--workers", metavar="N", type=natural_int, help="processes that decode; weights do not depend"
    )
    machine.add_argument(
        "--validate-every", metavar="N", type=positive_int, help="epochs between validations (default: 1)"
    )
    machine.add_argument(
        "--log-every", metavar="N", type=positive_int, default=10, help="steps between log lines (default: %(default)s)"
    )
    machine.add_argument(
        "--checkpoint-every",
        metavar="N",
        type=positive_int,
        default=100,
        help="steps between states to resume from (default: %(default)s)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns the exit status."""
    import os

    from detector.console import say
    from detector.memory import keep_freed_memory
    from detector.models import read_metadata
    from detector.training.ranks import torchrun_ranks
    from detector.training.trainer import TrainConfig, describe, read_config, train

    keep_freed_memory()
    out = args.out or os.path.join("runs", Path(args.data).resolve().name)
    given = {name: value for name in _SHAPING if (value := getattr(args, name)) is not None}
    of_recipe = {name: getattr(args, name) for name in _OF_RECIPE} | AUGMENTATIONS.get(args.augment, {})
    if args.resume:
        recorded = read_config(out)
        if args.recipe not in (None, recorded.recipe.name):
            raise ValueError(f"cannot resume {out}, which was started with recipe {recorded.recipe.name}")
        given = {name: getattr(recorded, name) for name in _SHAPING} | given
        recipe, device = recorded.recipe, find_device(args.device or recorded.device)
    else:
        recipe, device = RECIPES[args.recipe or DEFAULT.name], find_device(args.device)
    config = TrainConfig(
        data=args.data,
        out=out,
        recipe=recipe.changed(**of_recipe),
        device=str(device),
        workers=default_workers(device) if args.workers is None else args.workers,
        log_every=args.log_every,
        checkpoint_every=args.checkpoint_every,
        **given,
    )
    with torchrun_ranks() as ranks:
        try:
            best = train(config, resume=args.resume, force=args.force, ranks=ranks)
        except KeyboardInterrupt:
            if ranks.writes:
                say(f"the run in {out} goes on with --resume")
            raise
        if ranks.writes:
            say(f"best {describe(read_metadata(best)['validation'])}")
            print(best)
    return 0
