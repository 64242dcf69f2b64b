"""What commands that measure detectors on a data set share: which images, which detectors, and how they run."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from detector.box import DEFAULT
from detector.commands.arguments import (
    UsageError,
    add_device,
    add_policy,
    add_precision,
    add_readers,
    find_weights,
    names,
    natural_int,
    positive_int,
)
from detector.verdicts import PRECISIONS

if TYPE_CHECKING:
    import torch

    from detector.data import Collection
    from detector.evaluation import ScoreFile
    from detector.models import Detector


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """DATA, --weights, and what images are measured on and how."""
    parser.add_argument("data", metavar="DATA", help="folder of real and generated images, by generator")
    parser.add_argument(
        "--weights",
        metavar="[NAME=]FILE",
        nargs="+",
        default=[DEFAULT],
        help="checkpoints: .safetensors, an original .pth, or the folder of a training, whose best is taken (default: "
        "the one in the package); NAME is what tables call the detector",
    )
    parser.add_argument(
        "--split", choices=("train", "val", "test"), help="of the data set (default: test if there is one, else all)"
    )
    parser.add_argument(
        "--resume",
        metavar="FILE",
        help="add each score to FILE, a line of JSON, and take those that are in it: goes on where the command ended",
    )
    add_precision(parser)
    add_selection(parser)


def add_selection(parser: argparse.ArgumentParser) -> None:
    """Which of the images, and how they are read and scored."""
    parser.add_argument("--generators", metavar="A,B", type=names, help="these alone")
    parser.add_argument("--classes", metavar="A,B", type=names, help="these alone")
    parser.add_argument(
        "--limit", metavar="N", type=positive_int, help="at most N reals and N fakes of each generator, drawn at random"
    )
    add_policy(parser)
    parser.add_argument("--seed", metavar="N", type=natural_int, default=0, help="of all that is drawn (default: 0)")
    parser.add_argument(
        "--batch-size",
        metavar="N",
        type=positive_int,
        default=32,
        help="of equal sizes, on a GPU (default: %(default)s)",
    )
    add_readers(parser)
    add_device(parser)


class Named(NamedTuple):
    """A detector, what tables call it, and its checkpoint."""

    name: str
    weights: Path
    model: Detector


def load_detectors(weights: list[str], device: torch.device, precision: str = PRECISIONS[0]) -> list[Named]:
    """The detectors of --weights, all read before the first is measured, so that a bad one costs no time.

    Args:
        precision: other than the first, they are for inference alone.

    Raises:
        UsageError: two have one name.
        OSError, CheckpointError: see :func:`detector.models.load_checkpoint`.
    """
    from detector.models import load_checkpoint

    paths: dict[str, Path] = {}
    for text in weights:
        name, path = _named(text)
        if name in paths:
            raise UsageError(f"argument --weights: two are called {name}; write NAME=FILE")
        paths[name] = path
    models = [load_checkpoint(path, device) for path in paths.values()]
    if precision != PRECISIONS[0]:
        models = [model.for_inference(precision) for model in models]
    return [Named(name, path, model) for (name, path), model in zip(paths.items(), models, strict=True)]


@contextmanager
def score_file(args: argparse.Namespace, detectors: Iterable[Named]) -> Iterator[ScoreFile | None]:
    """That of --resume.

    Raises:
        ValueError, OSError: see :class:`detector.evaluation.ScoreFile`.
    """
    from detector.evaluation import ScoreFile

    if args.resume is None:
        yield None
        return
    with ScoreFile(args.resume, [detector.model for detector in detectors]) as scores:
        yield scores


def find_collection(args: argparse.Namespace, usual_split: str = "test") -> Collection:
    """The images that the arguments mean, before --limit."""
    from detector.data import find_images, has_split

    split = args.split or (usual_split if has_split(args.data, usual_split) else None)
    return find_images(args.data, split)


def limit_collection(args: argparse.Namespace, collection: Collection) -> Collection:
    """The images of --generators and --classes, at most --limit of each kind."""
    from detector.evaluation import draw_subset

    collection = collection.select(categories=args.classes, generators=args.generators)
    return collection if args.limit is None else draw_subset(collection, args.limit, args.seed)


def _named(text: str) -> tuple[str, Path]:
    """NAME=FILE, or a file (which may have = in its name) called after itself or the training it comes from."""
    name, equals, path = text.partition("=")
    if equals and name and path and not os.path.exists(text):
        return name, find_weights(path)
    weights = find_weights(text)
    trained = weights.stem in ("best", "last") and weights.resolve().parent.name
    return trained or weights.stem, weights
