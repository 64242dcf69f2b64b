"""Metrics of binary detection, label 1 = generated, on scores in 0..1.

Written on NumPy, in float64; average precision and AUC equal scikit-learn's, ties included. A metric that the labels do
not define (a set of reals alone has no average precision) is None.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

THRESHOLD = 0.5
"""Scores above it mean generated."""


@dataclass(frozen=True)
class Metrics:
    """What the papers report, as fractions in 0..1; None where a class has no image.

    Attributes:
        reals, fakes: numbers of images.
        accuracy: fraction on the right side of the threshold 0.5.
        average_precision: area under the precision-recall curve as a step function.
        auc: probability that a fake scores higher than a real, ties counting half.
        real_accuracy, fake_accuracy: accuracy on the reals and on the fakes.
    """

    reals: int
    fakes: int
    accuracy: float | None
    average_precision: float | None
    auc: float | None
    real_accuracy: float | None
    fake_accuracy: float | None

    @property
    def images(self) -> int:
        return self.reals + self.fakes


def compute_metrics(labels: ArrayLike, scores: ArrayLike) -> Metrics:
    """All metrics of one set of images.

    Args:
        labels: [N], 0 real, 1 fake.
        scores: [N], higher means fake, threshold 0.5.

    Raises:
        ValueError: shapes differ, labels are not 0 and 1, scores are not finite.
    """
    labels, scores = _checked(labels, scores)
    right = (scores > THRESHOLD) == labels
    return Metrics(
        reals=int((~labels).sum()),
        fakes=int(labels.sum()),
        accuracy=_mean(right),
        average_precision=average_precision(labels, scores),
        auc=roc_auc(labels, scores),
        real_accuracy=_mean(right[~labels]),
        fake_accuracy=_mean(right[labels]),
    )


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """sum_k (recall_k - recall_{k-1}) precision_k over the distinct scores, from high to low.

    Equals ``sklearn.metrics.average_precision_score``, which both papers use. scikit-learn also answers for sets of
    one class (1 for fakes alone, 0 with a warning for reals alone); as those numbers say nothing, this gives None.
    """
    labels, scores = _checked(labels, scores)
    if labels.all() or not labels.any():
        return None
    hits, drawn = _cumulative(labels, scores)
    recall = np.concatenate([[0.0], hits / hits[-1]])
    return float(np.sum(np.diff(recall) * hits / drawn))


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the receiver operating characteristic, by trapezoids (ties count half); None without both classes."""
    labels, scores = _checked(labels, scores)
    if labels.all() or not labels.any():
        return None
    hits, drawn = _cumulative(labels, scores)
    true_rate = np.concatenate([[0.0], hits / hits[-1]])
    false_rate = np.concatenate([[0.0], (drawn - hits) / (drawn[-1] - hits[-1])])
    return float(np.sum(np.diff(false_rate) * (true_rate[1:] + true_rate[:-1]) / 2))


def _cumulative(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Fakes and images at or above each distinct score, from high to low."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return np.cumsum(labels[order])[last_of_tie], last_of_tie + 1


def _mean(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if right.size else None


def _checked(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels and scores must be [N], got shapes {list(labels.shape)} and {list(scores.shape)}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (real) or 1 (fake), got {np.setdiff1d(labels, (0, 1))[:4].tolist()}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}")
    return labels.astype(bool), scores
