"""How much a sign of doubt is worth: the errors that are left among the images that are judged, as more are left out.

Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017; the area under the curve
(AURC): Geifman, Uziel and El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", ICLR 2019. A
sign that knows nothing has an area of the risk itself, whichever images it leaves out first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class RiskCoverage(NamedTuple):
    """The curve, from the least doubted image on, float64 [N].

    Attributes:
        coverage: the share of the images that are judged, above 0 up to 1.
        risk: the share of errors among them.
    """

    coverage: NDArray[np.float64]
    risk: NDArray[np.float64]


def risk_coverage(errors: ArrayLike, doubts: ArrayLike, weights: ArrayLike | None = None) -> RiskCoverage:
    """The curve of one sign of doubt.

    Images that are doubted alike may be judged in any order, and the curve is that of the mean over all orders: they
    share their errors (and their weight) evenly.

    Args:
        errors: [N], whether the verdict on each image is wrong.
        doubts: [N], larger for images that are doubted more; no NaN.
        weights: [N], above 0, of the images; all alike by default.

    Raises:
        ValueError: shapes differ, there is a NaN among the doubts, or a weight is not above 0.
    """
    wrong, doubt = np.asarray(errors, dtype=np.float64), np.asarray(doubts, dtype=np.float64)
    weight = np.ones_like(wrong) if weights is None else np.asarray(weights, dtype=np.float64)
    if wrong.ndim != 1 or not wrong.shape == doubt.shape == weight.shape:
        shapes = ", ".join(str(list(values.shape)) for values in (wrong, doubt, weight))
        raise ValueError(f"errors, doubts and weights must be [N], got shapes {shapes}")
    if np.isnan(doubt).any():
        raise ValueError("doubts must be numbers, got NaN")
    if not (weight > 0).all():
        raise ValueError(f"weights must be above 0, got {weight[~(weight > 0)][0]}")
    _, tie, number = np.unique(doubt, return_inverse=True, return_counts=True)
    judged, failed = (np.bincount(tie, weights=values) / number for values in (weight, weight * wrong))
    judged, failed = (np.cumsum(np.repeat(values, number)) for values in (judged, failed))
    return RiskCoverage(judged / judged[-1:], failed / judged)


def aurc(errors: ArrayLike, doubts: ArrayLike, weights: ArrayLike | None = None) -> float | None:
    """The mean risk over all coverages, 0..1, lower is better; None without images.

    1/N sum_k risk(k / N), as published, where all images weigh alike; with weights, the mean of the risks with them.

    Args:
        errors, doubts, weights: as of :func:`risk_coverage`.
    """
    curve = risk_coverage(errors, doubts, weights)
    if not curve.risk.size:
        return None
    return float(np.sum(np.diff(curve.coverage, prepend=0.0) * curve.risk))


def balanced_weights(labels: ArrayLike) -> NDArray[np.float64]:
    """[N] weights with which each label weighs the same, whatever its count: 1 / (images of its label)."""
    values = np.asarray(labels)
    _, index, number = np.unique(values, return_inverse=True, return_counts=True)
    return 1.0 / number[index]
