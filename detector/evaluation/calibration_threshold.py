"""A threshold that calls no more than a wanted share of reals fake, with a guarantee.

The threshold is an order statistic of the scores of reals: their k-th largest, where k is fixed by their number n, the
wanted rate alpha and the confidence before any score is seen. The share of all reals of that kind above the k-th
largest of n is distributed as Beta(k, n - k + 1) where scores are continuous (Wilks, Annals of Mathematical Statistics
12, 1941), and is no larger where they tie, as only scores strictly above a threshold are called fake. So it exceeds
alpha with probability P(Binomial(n, alpha) <= k - 1) at most, and k is the largest for which that is 1 - confidence or
less: the most false alarms among the n at which the upper bound of Clopper and Pearson stays at alpha or below.

Nothing is assumed of the detector or of the distribution of scores, but that the reals were drawn independently of each
other, as those will be that the threshold is used on. Reals of another history have other scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from detector.evaluation.binomial import upper_bound
from detector.verdicts import ALPHA, CONFIDENCE

# Two probabilities that differ by less, relatively, are the same but for rounding.
_ROUNDING = 1e-12


class TooFewError(ValueError):
    """Reals that are too few to certify the rate, whatever their scores."""


@dataclass(frozen=True)
class Certified:
    """A threshold, and what is known of the reals above it.

    Attributes:
        threshold: a score; what is strictly above is called fake.
        images: reals that it was chosen by.
        rank: it is the rank-th largest of their scores, counted from 1.
        called: how many of them lie strictly above it; rank - 1 but for ties.
        bound: the rate of all reals of their kind is at most that, with the confidence asked for; at most alpha.
    """

    threshold: float
    images: int
    rank: int
    called: int
    bound: float


def certified_rank(images: int, alpha: float = ALPHA, confidence: float = CONFIDENCE) -> int:
    """The k of the module's text: the k-th largest of that many scores is the lowest threshold that can be certified.

    Args:
        images: at least 0.
        alpha: the wanted rate, in 0..1, both ends excluded.
        confidence: at least 0.5, below 1.

    Returns:
        0..images; 0 where the images are too few.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(alpha, confidence)
    if images < 0:
        raise ValueError(f"images must not be negative, got {images}")
    # P(X = i) of a binomial X, each from the one before by their ratio; in logarithms, as P(X = 0) may underflow.
    i = np.arange(images)
    steps = np.log((images - i) / (i + 1)) + (math.log(alpha) - math.log1p(-alpha))
    logs = images * math.log1p(-alpha) + np.concatenate([[0.0], np.cumsum(steps)])
    at_most = np.cumsum(np.exp(logs))  # P(X <= i)
    return int(np.searchsorted(at_most, (1 - confidence) * (1 + _ROUNDING), side="right"))


def images_needed(alpha: float = ALPHA, confidence: float = CONFIDENCE) -> int:
    """The fewest reals that can certify the rate: n with (1 - alpha)^n <= 1 - confidence, 299 for 1 % at 95 %.

    Raises:
        ValueError: as :func:`certified_rank`.
    """
    _check(alpha, confidence)
    return max(1, math.ceil(math.log(1 - confidence) / math.log1p(-alpha) * (1 - _ROUNDING)))


def certified_threshold(scores: ArrayLike, alpha: float = ALPHA, confidence: float = CONFIDENCE) -> Certified:
    """The lowest threshold above which, with that confidence, at most the share `alpha` of reals lies.

    Args:
        scores: [N], of reals, of any finite range.
        alpha: in 0..1, both ends excluded.
        confidence: of the guarantee, over draws of the N reals; at least 0.5, below 1.

    Raises:
        TooFewError: N is below `images_needed`.
        ValueError: an argument is out of range.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"scores must be [N], got shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError(f"scores must be finite, got {values[~np.isfinite(values)][0]}")
    check_number(len(values), alpha, confidence)
    rank = certified_rank(len(values), alpha, confidence)
    threshold = float(np.sort(values)[-rank])
    # Of tied scores fewer lie above, but how many was not known beforehand: the bound is that of the rank.
    bound = upper_bound(rank - 1, len(values), confidence)
    return Certified(threshold, len(values), rank, int((values > threshold).sum()), bound)


def certified_thresholds(
    groups: Mapping[str, ArrayLike], alpha: float = ALPHA, confidence: float = CONFIDENCE
) -> tuple[float, dict[str, Certified]]:
    """One threshold for reals of several kinds: the largest of those of the groups.

    The guarantee then holds for all groups at once with the same confidence, without a correction for their number:
    some group's rate exceeds alpha only if the threshold lies below every score that alpha of that group exceeds, so
    only if the one group for which that score is highest, which no draw changes, has got too low a threshold itself.
    It holds for any mixture of the groups too.

    Args:
        groups: scores [N] of reals, by the group's name; at least one group.
        alpha, confidence: as of :func:`certified_threshold`.

    Returns:
        The threshold, and each group's own.

    Raises:
        TooFewError: a group has too few images; it is named.
        ValueError: an argument is out of range, or there is no group.
    """
    if not groups:
        raise ValueError("groups must hold at least one group of reals, got none")
    own = {}
    for name, scores in groups.items():
        try:
            own[name] = certified_threshold(scores, alpha, confidence)
        except TooFewError as error:
            raise TooFewError(f"group {name}: {error}") from None
    return max(one.threshold for one in own.values()), own


def check_number(images: int, alpha: float = ALPHA, confidence: float = CONFIDENCE) -> None:
    """Says before any image is scored that they are too few.

    Raises:
        TooFewError: they are. ValueError: as :func:`certified_rank`.
    """
    needed = images_needed(alpha, confidence)
    if images < needed:
        raise TooFewError(
            f"{images} real{'s' * (images != 1)} cannot certify a rate of {100 * alpha:g} % with "
            f"{100 * confidence:g} % confidence; that takes at least {needed}"
        )


def _check(alpha: float, confidence: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha must be between 0 and 1, got {alpha}")
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be at least 0.5 and below 1, got {confidence}")
