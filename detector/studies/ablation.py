"""The residual's variants, each trained and tested alike: which cell, which anchor, and what is subtracted.

Source: Tan et al., CVPR 2024 (arXiv 2312.10461), Table 7.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from detector.studies.series import Series, Variant, images_to_test_on, run_series
from detector.training.trainer import TrainConfig

KIND = "ablation"
RESULT = "ablation.json"

RESIDUALS: dict[str, dict[str, Any]] = {
    "l = 2, j = 1": {"patch": 2, "anchor": 0, "mode": "pixel"},
    "l = 2, j = 2": {"patch": 2, "anchor": 1, "mode": "pixel"},
    "l = 2, j = 3": {"patch": 2, "anchor": 2, "mode": "pixel"},
    "l = 2, j = 4": {"patch": 2, "anchor": 3, "mode": "pixel"},
    "l = 4, j = 1": {"patch": 4, "anchor": 0, "mode": "pixel"},
    "l = 8, j = 1": {"patch": 8, "anchor": 0, "mode": "pixel"},
    "l = 2, mean": {"patch": 2, "anchor": 0, "mode": "mean"},
    "l = 2, max": {"patch": 2, "anchor": 0, "mode": "max"},
}
"""Cells of l x l pixels from which the j-th, counted from 1, or the cell's mean or maximum is subtracted, in values of
a recipe, whose anchor counts from 0. The first is the paper's choice."""

_HELD = "Recipe, seed and images are the same in all runs; only the residual differs."


def ablation(config: TrainConfig, *, test: str | None = None, command: str = "", verbose: bool = True) -> Series:
    """Trains and tests every residual.

    Runs lie in `config.out`/<patch>-<anchor>-<mode>, the result in `config.out`/ablation.json. What is there already is
    not done again.

    Args:
        config: of the runs; the recipe's residual is not used.
        test: folder of the images to test on; by default the test split of `config.data`.
        command: for the record.
        verbose: show progress.

    Raises:
        DataError: there is nothing to train or to test on.
        ValueError: the recipe's model computes no residual, or the folder holds runs of another study.
    """
    if config.recipe.model != "NPRDetector":
        raise ValueError(f"the residual is NPRDetector's; recipe {config.recipe.name} trains a {config.recipe.model}")
    images = images_to_test_on(config.data, test)
    variants = [
        Variant(name, "{patch}-{anchor}-{mode}".format(**values), _with_residual(config, values), dict(values))
        for name, values in RESIDUALS.items()
    ]
    series = Series(
        KIND,
        "What the residual subtracts (Tan et al., CVPR 2024, Table 7)",
        "residual",
        _HELD,
        config.data,
        str(images.root),
        config.recipe.to_dict(),
        config.seed,
        command=command,
    )
    return run_series(series, variants, images, Path(config.out) / RESULT, verbose=verbose)


def _with_residual(config: TrainConfig, values: dict[str, Any]) -> TrainConfig:
    return replace(config, recipe=config.recipe.changed(**values))
