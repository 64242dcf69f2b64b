"""Metrics of binary detection, label 1 = generated, on scores in 0..1.

Written on NumPy, in float64; average precision and AUC equal scikit-learn's, ties included. A metric that the labels do
not define (a set of reals alone has no average precision) is None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detector.evaluation.calibration_cost import cllr, cllr_min, logits_of
from detector.verdicts import THRESHOLD

RECALL = 0.95
"""Fraction of the fakes that are to be found where false positives are counted."""

FALSE_RATES = (0.01, 0.001)
"""Fractions of the reals that may be called fake where fakes found are counted."""

BINS = 15
"""Of the calibration error, as many as Guo et al. use."""


@dataclass(frozen=True)
class Metrics:
    """What the papers report, and what a use of the scores needs; None where it is undefined.

    All but the counts, `best_threshold` and the costs in bits are fractions in 0..1. Those with a default are missing
    in results of earlier releases.

    Attributes:
        reals, fakes: numbers of images.
        accuracy: fraction on the right side of the threshold 0.5.
        average_precision: area under the precision-recall curve as a step function.
        auc: probability that a fake scores higher than a real, ties counting half.
        real_accuracy, fake_accuracy: accuracy on the reals and on the fakes.
        best_accuracy: the highest accuracy of any threshold. Chosen on these very images, so an upper bound.
        best_threshold: scores above it mean generated for that accuracy; of several, the nearest to 0.5.
        ece: expected calibration error, see :func:`expected_calibration_error`.
        fpr95: fraction of the reals called fake where at least 95 % of the fakes are.
        eer: equal error rate, see :func:`equal_error_rate`.
        tpr_at_1_percent_fpr, tpr_at_0_1_percent_fpr: fraction of the fakes found at the lowest threshold that calls no
            more than 1 % and 0.1 % of these very reals fake.
        cllr: cost in bits of the score's logit, taken as a natural log-likelihood ratio, see
            :func:`detector.evaluation.calibration_cost.cllr`; at most 1 where it is better than nothing.
        cllr_min: what of it the best calibration would leave, in 0..1.
    """

    reals: int
    fakes: int
    accuracy: float | None
    average_precision: float | None
    auc: float | None
    real_accuracy: float | None
    fake_accuracy: float | None
    best_accuracy: float | None
    best_threshold: float | None
    ece: float | None
    fpr95: float | None
    eer: float | None = None
    tpr_at_1_percent_fpr: float | None = None
    tpr_at_0_1_percent_fpr: float | None = None
    cllr: float | None = None
    cllr_min: float | None = None

    @property
    def images(self) -> int:
        return self.reals + self.fakes


RATES = tuple(name for name in Metrics.__dataclass_fields__ if name not in ("reals", "fakes", "best_threshold"))
"""The metrics of which means over generators are taken: fractions, and the costs of BITS."""

BITS = ("cllr", "cllr_min")
"""The metrics that are costs in bits."""


def compute_metrics(labels: ArrayLike, scores: ArrayLike) -> Metrics:
    """All metrics of one set of images.

    Args:
        labels: [N], 0 real, 1 fake.
        scores: [N], in 0..1, higher means fake, threshold 0.5.

    Raises:
        ValueError: shapes differ, labels are not 0 and 1, scores are not in 0..1.

    Example:
        >>> from detector.evaluation import compute_metrics
        >>> found = compute_metrics(labels=[0, 0, 1, 1], scores=[0.1, 0.4, 0.3, 0.9])
        >>> found.accuracy, found.auc, found.reals
        (0.75, 0.75, 2)
    """
    labels, scores = check_scores(labels, scores)
    right = (scores > THRESHOLD) == labels
    best_accuracy, best_threshold = best_accuracy_and_threshold(labels, scores) or (None, None)
    return Metrics(
        reals=int((~labels).sum()),
        fakes=int(labels.sum()),
        accuracy=_mean(right),
        average_precision=average_precision(labels, scores),
        auc=roc_auc(labels, scores),
        real_accuracy=_mean(right[~labels]),
        fake_accuracy=_mean(right[labels]),
        best_accuracy=best_accuracy,
        best_threshold=best_threshold,
        ece=expected_calibration_error(labels, scores),
        fpr95=fpr_at_recall(labels, scores),
        eer=equal_error_rate(labels, scores),
        tpr_at_1_percent_fpr=tpr_at_fpr(labels, scores, FALSE_RATES[0]),
        tpr_at_0_1_percent_fpr=tpr_at_fpr(labels, scores, FALSE_RATES[1]),
        cllr=cllr(logits_of(scores[~labels]), logits_of(scores[labels])),
        cllr_min=cllr_min(scores[~labels], scores[labels]),
    )


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """sum_k (recall_k - recall_{k-1}) precision_k over the distinct scores, from high to low.

    Equals ``sklearn.metrics.average_precision_score``, which both papers use. scikit-learn also answers for sets of
    one class (1 for fakes alone, 0 with a warning for reals alone); as those numbers say nothing, this gives None.
    """
    labels, scores = check_scores(labels, scores)
    if labels.all() or not labels.any():
        return None
    hits, drawn = _cumulative(labels, scores)
    recall = np.concatenate([[0.0], hits / hits[-1]])
    return float(np.sum(np.diff(recall) * hits / drawn))


def balanced_average_precision(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Average precision with reals and fakes weighing one half each, whatever their counts; None without both classes.

    The precision at a threshold is TPR / (TPR + FPR), so that guessing tends to 0.5, and figures compare between sets
    of any counts. Equals ``sklearn.metrics.average_precision_score`` with each image weighing 1 / (images of its
    label).
    """
    curve = roc_curve(labels, scores)
    if curve is None:
        return None
    recall, called = curve.true_rate, curve.true_rate + curve.false_rate
    return float(np.sum(np.diff(recall) * recall[1:] / called[1:]))


def chance_average_precision(reals: int, fakes: int) -> float | None:
    """The average precision to expect of scores that know nothing; None without both classes.

    It tends to the fraction of fakes, but lies above it where images are few: in a random order, the image in place k
    is a fake as often as any, and the precision there is (1 + (k - 1) (fakes - 1) / (N - 1)) / k on average.
    """
    images = reals + fakes
    if not reals or not fakes:
        return None
    harmonic = float(np.sum(1 / np.arange(1, images + 1)))
    return (harmonic + (fakes - 1) / (images - 1) * (images - harmonic)) / images


def roc_auc(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Area under the receiver operating characteristic, by trapezoids (ties count half); None without both classes."""
    curve = roc_curve(labels, scores)
    if curve is None:
        return None
    heights = curve.true_rate[1:] + curve.true_rate[:-1]
    return float(np.sum(np.diff(curve.false_rate) * heights / 2))


class RocCurve(NamedTuple):
    """Reals and fakes called fake as the threshold falls, float64 [1 + distinct scores], from 0 to 1.

    Attributes:
        false_rate: fraction of the reals.
        true_rate: fraction of the fakes, the recall.
    """

    false_rate: NDArray[np.float64]
    true_rate: NDArray[np.float64]


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> RocCurve | None:
    """The receiver operating characteristic; None without both classes."""
    labels, scores = check_scores(labels, scores)
    if labels.all() or not labels.any():
        return None
    hits, drawn = _cumulative(labels, scores)
    false_alarms = drawn - hits
    return RocCurve(np.concatenate([[0.0], false_alarms / false_alarms[-1]]), np.concatenate([[0.0], hits / hits[-1]]))


def fpr_at_recall(labels: ArrayLike, scores: ArrayLike, recall: float = RECALL) -> float | None:
    """Fraction of the reals called fake at the highest threshold that finds `recall` of the fakes."""
    curve = roc_curve(labels, scores)
    if curve is None:
        return None
    return float(curve.false_rate[np.argmax(curve.true_rate >= recall)])


def tpr_at_fpr(labels: ArrayLike, scores: ArrayLike, rate: float) -> float | None:
    """Fraction of the fakes found at the lowest threshold that calls at most `rate` of these reals fake.

    With fewer than 1 / rate reals, that is none of them. None without both classes.
    """
    curve = roc_curve(labels, scores)
    if curve is None:
        return None
    return float(curve.true_rate[np.searchsorted(curve.false_rate, rate, side="right") - 1])


def equal_error_rate(labels: ArrayLike, scores: ArrayLike) -> float | None:
    """Where the ROC curve, with straight lines between its points, has as many reals called fake as fakes missed.

    None without both classes.
    """
    curve = roc_curve(labels, scores)
    if curve is None:
        return None
    # Grows along the curve, from -1 to 1.
    excess = curve.false_rate + curve.true_rate - 1
    return float(np.interp(0.0, excess, curve.false_rate))


def best_accuracy_and_threshold(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float] | None:
    """The highest accuracy of any threshold, and of the thresholds that give it the nearest to 0.5.

    None without both classes, where any set is divided perfectly.
    """
    labels, scores = check_scores(labels, scores)
    if labels.all() or not labels.any():
        return None
    hits, drawn = _cumulative(labels, scores)
    # With as many as `drawn` called fake, right are the hits among them and the reals among the others.
    right = hits + (~labels).sum() - (drawn - hits)
    right = np.concatenate([[(~labels).sum()], right])
    distinct = np.unique(scores)[::-1]
    # Called fake is what is above a threshold: halfway to the next score, or on it where no number lies between.
    halfway = (distinct[:-1] + distinct[1:]) / 2
    halfway = np.where(halfway < distinct[:-1], halfway, distinct[1:])
    thresholds = np.concatenate([[1.0], halfway, [np.nextafter(distinct[-1], -1)]])
    best = np.flatnonzero(right == right.max())
    chosen = best[np.argmin(np.abs(thresholds[best] - THRESHOLD))]
    return float(right[chosen] / len(labels)), float(thresholds[chosen])


class Reliability(NamedTuple):
    """Images by their score, in bins of equal width that exclude their lower and include their upper end.

    Attributes:
        images: int64 [bins], how many.
        scores: float64 [bins], their mean score; NaN in empty bins.
        fakes: float64 [bins], the fraction of fakes; NaN in empty bins.
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float64]
    fakes: NDArray[np.float64]


def reliability(labels: ArrayLike, scores: ArrayLike, bins: int = BINS) -> Reliability:
    """What a reliability diagram shows: a calibrated detector's bins hold as many fakes as their scores say."""
    labels, scores = check_scores(labels, scores)
    # A score of 0 falls into the first bin: it has nothing below it to belong to.
    index = np.maximum(np.searchsorted(np.arange(bins + 1) / bins, scores) - 1, 0)
    images = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        return Reliability(
            images,
            np.bincount(index, weights=scores, minlength=bins) / images,
            np.bincount(index, weights=labels, minlength=bins) / images,
        )


def expected_calibration_error(labels: ArrayLike, scores: ArrayLike, bins: int = BINS) -> float | None:
    """sum_b n_b / N |fraction of fakes in bin b - mean score in bin b|, over bins of equal width; None without images.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equation 3, with the score for "fake" in place
    of the predicted class's confidence, which would not tell reals from fakes.
    """
    images, mean_scores, fakes = reliability(labels, scores, bins)
    filled = images > 0
    if not filled.any():
        return None
    gaps = np.abs(fakes[filled] - mean_scores[filled])
    return float(np.sum(images[filled] * gaps) / images.sum())


def _cumulative(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Fakes and images at or above each distinct score, from high to low."""
    order = np.argsort(-scores, kind="stable")
    last_of_tie = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    return np.cumsum(labels[order])[last_of_tie], last_of_tie + 1


def _mean(right: NDArray[np.bool_]) -> float | None:
    return float(right.mean()) if right.size else None


def check_scores(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Both as arrays, after the checks that :func:`compute_metrics` promises."""
    labels, scores = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    if labels.ndim != 1 or labels.shape != scores.shape:
        raise ValueError(f"labels and scores must be [N], got shapes {list(labels.shape)} and {list(scores.shape)}")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (real) or 1 (fake), got {np.setdiff1d(labels, (0, 1))[:4].tolist()}")
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}")
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise ValueError(f"scores must be in 0..1, got {scores.min()} to {scores.max()}")
    return labels.astype(bool), scores
