"""The area under the ROC curve of any numbers, with its interval in closed form.

DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating characteristic
curves", Biometrics 44, 1988, by ranks as in Sun and Xu, IEEE Signal Processing Letters 21, 2014.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detector.evaluation.binomial import clopper_pearson
from detector.evaluation.bootstrap import LEVEL, Interval


def auc_and_interval(
    labels: ArrayLike, values: ArrayLike, strata: ArrayLike | None = None
) -> tuple[float, Interval] | None:
    """How often a fake has a higher value than a real, ties counting half, and where that lies with 95 %.

    The interval is DeLong's on the logit scale, so that it stays within 0..1. Where the values leave no variance to
    estimate, as where labels are told apart perfectly, it is the exact interval of so many independent pairs of a real
    and a fake as there are.

    Args:
        labels: [N], 0 real, 1 fake.
        values: [N], finite.
        strata: int [N]; images of different ones are not compared. None to compare all.

    Returns:
        None without a real and a fake to compare.
    """
    labels, values = np.asarray(labels, dtype=bool), np.asarray(values, dtype=np.float64)
    strata = np.zeros(len(labels), dtype=np.intp) if strata is None else np.asarray(strata)
    parts = [_placements(values[members & labels], values[members & ~labels]) for members in _members(strata)]
    if not any(len(part.fakes) and len(part.reals) for part in parts):
        return None
    # An image counts as often as it is compared.
    fakes, reals = np.concatenate([part.fakes for part in parts]), np.concatenate([part.reals for part in parts])
    of_fakes = np.concatenate([np.full(len(part.fakes), float(len(part.reals))) for part in parts])
    of_reals = np.concatenate([np.full(len(part.reals), float(len(part.fakes))) for part in parts])
    auc = float(np.average(fakes, weights=of_fakes))
    variance = _variance_of_mean(fakes, of_fakes) + _variance_of_mean(reals, of_reals)
    if variance > 0 and 0 < auc < 1:
        reach = NormalDist().inv_cdf((1 + LEVEL) / 2) * math.sqrt(variance) / (auc * (1 - auc))
        centre = math.log(auc / (1 - auc))
        return auc, (_logistic(centre - reach), _logistic(centre + reach))
    pairs = sum(min(len(part.fakes), len(part.reals)) for part in parts)
    interval = clopper_pearson(round(auc * pairs), pairs)
    assert interval is not None
    return auc, interval


class _Placements(NamedTuple):
    """Of each fake, the share of the reals that it is above; of each real, the share of the fakes that it is below."""

    fakes: NDArray[np.float64]
    reals: NDArray[np.float64]


def _placements(fakes: NDArray[np.float64], reals: NDArray[np.float64]) -> _Placements:
    """Nothing of either where there is none of the other."""
    if not len(fakes) or not len(reals):
        return _Placements(np.empty(0), np.empty(0))
    together = midranks(np.concatenate([fakes, reals]))
    return _Placements(
        (together[: len(fakes)] - midranks(fakes)) / len(reals),
        1 - (together[len(fakes) :] - midranks(reals)) / len(fakes),
    )


def _members(strata: NDArray) -> list[NDArray[np.bool_]]:
    return [strata == stratum for stratum in np.unique(strata)]


def _variance_of_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    if len(values) < 2:
        return 0.0
    apart = (values - np.average(values, weights=weights)) * weights / weights.mean()
    return float((apart**2).sum() / (len(values) - 1) / len(values))


def midranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1 on, equal values sharing the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[group]


def _logistic(value: float) -> float:
    return float(np.exp(-np.logaddexp(0, -value)))  # never overflows
