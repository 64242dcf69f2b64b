"""Average precision against the number of classes trained on: does more diverse training data carry over better?

Source: Wang et al., CVPR 2020 (arXiv 1912.11035), "Effect of dataset diversity": 2, 4, 8, 16 and all 20 LSUN classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from detector.data import DataError, find_images, has_split
from detector.studies.series import Published, Series, Variant, images_to_test_on, run_series
from detector.training.trainer import TrainConfig

COUNTS = (2, 4, 8, 16, 20)
"""The paper's numbers of classes."""

KIND = "diversity"
RESULT = "diversity.json"

_PUBLISHED = Published(
    "Wang et al., CVPR 2020: mean AP on the test sets of ForenSynths, trained on ProGAN's LSUN classes",
    {"2 classes": 0.813, "4 classes": 0.854, "8 classes": 0.879, "16 classes": 0.914, "20 classes": 0.908},
)

_HELD = (
    "Recipe and seed are the same in all runs. Fewer classes also mean fewer images, and with them fewer steps. "
    "Smaller sets of classes are part of the larger ones."
)


def diversity(
    config: TrainConfig,
    counts: Sequence[int] = COUNTS,
    *,
    test: str | None = None,
    order: Sequence[str] | None = None,
    command: str = "",
    verbose: bool = True,
) -> Series:
    """Trains on more and more classes and tests each run on the same images.

    Runs lie in `config.out`/classes-NN, the result in `config.out`/diversity.json. What is there already is not done
    again.

    Args:
        config: of the runs; its `classes` is not used.
        counts: numbers of classes.
        test: folder of the images to test on; by default the test split of `config.data`.
        order: classes, of which each run takes the first; by default all of them, in an order drawn from the seed.
        command: for the record.
        verbose: show progress.

    Raises:
        DataError: the training data have no classes or too few, or there is nothing to test on.
        ValueError: counts or order are wrong, or the folder holds runs of another study.
    """
    images = images_to_test_on(config.data, test)
    categories = find_images(config.data, "train" if has_split(config.data, "train") else None).categories
    subsets = nested_classes(categories, counts, order=order, seed=config.seed, data=config.data)
    variants = [
        Variant(_name(count), f"classes-{count:02d}", replace(config, classes=names), {"classes": list(names)})
        for count, names in subsets.items()
    ]
    series = Series(
        KIND,
        "Average precision against the number of classes trained on",
        "trained on",
        _HELD,
        config.data,
        str(images.root),
        config.recipe.to_dict(),
        config.seed,
        published=_PUBLISHED,
        command=command,
    )
    return run_series(series, variants, images, Path(config.out) / RESULT, verbose=verbose)


def nested_classes(
    categories: Sequence[str],
    counts: Sequence[int],
    *,
    order: Sequence[str] | None = None,
    seed: int = 0,
    data: str = "the data set",
) -> dict[int, tuple[str, ...]]:
    """The first so many classes of one order, for each count from the smallest to the largest.

    Args:
        categories: classes that there are.
        counts: numbers of classes, each at least 1.
        order: some or all of the classes; None draws an order of all.
        seed: of that order.
        data: what to call the data set in errors.

    Raises:
        DataError: there are fewer classes than the largest count.
        ValueError: counts are empty or below 1; the order names a class twice or one that there is not.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"numbers of classes must be at least 1, got {', '.join(map(str, counts)) or 'none'}")
    if not categories:
        raise DataError(f"{data} names no classes to train on; they are folders, <split>/<class>/{{0_real,1_fake}}")
    if order is None:
        order = [sorted(categories)[i] for i in np.random.default_rng(seed).permutation(len(categories))]
    elif unknown := [name for name in order if name not in categories]:
        raise DataError(f"no class {', '.join(unknown)} in {data}; there are {', '.join(sorted(categories))}")
    elif len(set(order)) < len(order):
        raise ValueError(f"classes named twice: {', '.join(order)}")
    if max(counts) > len(order):
        raise DataError(f"{max(counts)} classes are asked for, {data} gives {len(order)}: {', '.join(sorted(order))}")
    return {count: tuple(order[:count]) for count in sorted(set(counts))}


def _name(count: int) -> str:
    return "1 class" if count == 1 else f"{count} classes"
