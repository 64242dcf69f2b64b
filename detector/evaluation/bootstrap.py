"""How sure the metrics of a set of images are: percentile intervals of the stratified bootstrap.

Reals and fakes are drawn anew with replacement, as many of each as there are, and the metrics computed of every draw;
an interval spans the middle 95 % of them (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13).
It says what other images of the same kind would change, not what other generators or another training would. The
intervals of average precision lean upwards where images are few: an image drawn twice is a tie with itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detector.evaluation.metrics import THRESHOLD, check_scores

LEVEL = 0.95

Interval = tuple[float, float]
Resamples = dict[str, NDArray[np.float64]]

# Most counts in memory at once: resamples times distinct scores.
_CHUNK = 2**22


def resampled_metrics(labels: ArrayLike, scores: ArrayLike, resamples: int, rng: np.random.Generator) -> Resamples:
    """Metrics of that many draws of the images, with replacement and stratified by label.

    Args:
        labels, scores: as in :func:`detector.evaluation.compute_metrics`.
        resamples: at least 1.
        rng: the only source of randomness.

    Returns:
        float64 [resamples] for "accuracy", and for "average_precision" and "auc" where there are reals and fakes;
        nothing without images.
    """
    labels, scores = check_scores(labels, scores)
    if not labels.size:
        return {}
    distinct, group = np.unique(-scores, return_inverse=True)  # from high to low
    above = -distinct > THRESHOLD
    real_groups, fake_groups = group[~labels], group[labels]
    parts: dict[str, list[NDArray[np.float64]]] = {}
    rows = max(1, _CHUNK // max(len(distinct), len(labels)))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        reals = _draw(real_groups, len(distinct), count, rng)
        fakes = _draw(fake_groups, len(distinct), count, rng)
        right = fakes[:, above].sum(axis=1) + reals[:, ~above].sum(axis=1)
        parts.setdefault("accuracy", []).append(right / len(labels))
        if len(real_groups) and len(fake_groups):
            hits, false_alarms = fakes.cumsum(axis=1), reals.cumsum(axis=1)
            precision = hits / np.maximum(hits + false_alarms, 1)
            parts.setdefault("average_precision", []).append((fakes * precision).sum(axis=1) / len(fake_groups))
            # A real is beaten by the fakes above it, and half by those of its own score.
            beaten = (reals * (hits - fakes / 2)).sum(axis=1)
            parts.setdefault("auc", []).append(beaten / (len(real_groups) * len(fake_groups)))
    return {name: np.concatenate(values) for name, values in parts.items()}


def intervals(resampled: Resamples) -> dict[str, Interval]:
    """The middle 95 % of each metric."""
    tail = (1 - LEVEL) / 2
    return {name: tuple(np.quantile(values, (tail, 1 - tail)).tolist()) for name, values in resampled.items()}


def mean_intervals(sets: Iterable[Resamples]) -> dict[str, Interval]:
    """Intervals of each metric's mean over several sets, drawn independently, that define it."""
    together: dict[str, list[NDArray[np.float64]]] = {}
    for resampled in sets:
        for name, values in resampled.items():
            together.setdefault(name, []).append(values)
    return intervals({name: np.mean(values, axis=0) for name, values in together.items()})


def _draw(groups: NDArray[np.intp], number: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[count, number], how often each of `number` groups comes up in drawing len(groups) of their members."""
    if not len(groups):
        return np.zeros((count, number), dtype=np.int64)
    drawn = groups[rng.integers(len(groups), size=(count, len(groups)))]
    cells = drawn + number * np.arange(count)[:, None]
    return np.bincount(cells.ravel(), minlength=count * number).reshape(count, number)
