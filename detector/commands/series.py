"""What the commands that train a series of runs share: their arguments, and how they show what they found."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from detector.commands.arguments import add_device, default_workers, find_device, natural_int, positive_int
from detector.training.recipes import RECIPES

if TYPE_CHECKING:
    from detector.studies.series import Series
    from detector.training.trainer import TrainConfig


def add_series(parser: argparse.ArgumentParser, recipe: str) -> None:
    """DATA, --out and how each run is trained."""
    parser.add_argument("data", metavar="DATA", help="folder of real and generated images to train on")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the runs and the result")
    parser.add_argument(
        "--test", metavar="DATA2", help="images to test on (default: the test split of DATA); its test split, if any"
    )
    parser.add_argument("--recipe", choices=RECIPES, default=recipe, help="of every run (default: %(default)s)")
    parser.add_argument("--epochs", metavar="N", type=positive_int, help="of every run (default: the recipe's)")
    parser.add_argument("--crop", metavar="PX", type=positive_int, help="side of crops (default: the recipe's)")
    parser.add_argument("--batch-size", metavar="N", type=positive_int, help="images in a step (default: the recipe's)")
    parser.add_argument(
        "--seed", metavar="N", type=natural_int, default=100, help="of every run (default: %(default)s)"
    )
    add_device(parser)
    parser.add_argument("--workers", metavar="N", type=natural_int, help="processes that decode images")


def config_of(
    args: argparse.Namespace, *, classes: tuple[str, ...] | None = None, imagenet: str | None = None
) -> TrainConfig:
    """The configuration that the runs share."""
    from detector.memory import keep_freed_memory
    from detector.report import check_figures
    from detector.training.trainer import TrainConfig

    check_figures()
    keep_freed_memory()
    device = find_device(args.device)
    return TrainConfig(
        data=args.data,
        out=args.out,
        recipe=RECIPES[args.recipe].changed(epochs=args.epochs, crop=args.crop, batch_size=args.batch_size),
        classes=classes,
        imagenet=imagenet,
        seed=args.seed,
        device=str(device),
        workers=default_workers(device) if args.workers is None else args.workers,
    )


def show(series: Series, config: TrainConfig) -> None:
    """Prints the table, and writes the report beside the runs."""
    from detector.evaluation import print_table
    from detector.report import write_report
    from detector.studies.series import as_table

    print_table(as_table(series))
    write_report(Path(config.out) / "report.html", series.title, [series.to_dict()])
