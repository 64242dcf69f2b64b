"""What the plots of a calibration show: Tippett and reliability, as points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Tippett(NamedTuple):
    """Shares of the images with a log-likelihood ratio of at least so much; each [distinct ratios], growing ratios.

    Attributes:
        llrs: the ratios, in the base they were given.
        reals: of the reals, misleading where the ratio is above 0.
        fakes: of the fakes.
    """

    llrs: NDArray[np.float64]
    reals: NDArray[np.float64]
    fakes: NDArray[np.float64]


def tippett(real_llrs: ArrayLike, fake_llrs: ArrayLike) -> Tippett:
    """The points of a Tippett plot (Evett and Buckleton, 1996), cumulated from above.

    Args:
        real_llrs, fake_llrs: in any base, [R] and [F], at least one of each.
    """
    reals, fakes = (np.sort(np.asarray(llrs, dtype=np.float64)) for llrs in (real_llrs, fake_llrs))
    llrs = np.unique(np.concatenate([reals, fakes]))
    shares = (1 - np.searchsorted(group, llrs) / len(group) for group in (reals, fakes))
    return Tippett(llrs, *shares)


class RatioReliability(NamedTuple):
    """Images by the probability that their ratio gives at a prior of one half, both labels weighing one half.

    Attributes:
        weights: [bins], the share of the weight in each bin of equal width.
        stated: [bins], mean probability of "fake"; NaN in empty bins.
        observed: [bins], the weighted fraction of fakes; NaN in empty bins.
    """

    weights: NDArray[np.float64]
    stated: NDArray[np.float64]
    observed: NDArray[np.float64]


def ratio_reliability(real_llrs: ArrayLike, fake_llrs: ArrayLike, bins: int = 10) -> RatioReliability:
    """The points of a reliability diagram.

    Args:
        real_llrs, fake_llrs: natural logarithms, [R] and [F], at least one of each.
        bins: of equal width.
    """
    groups = [np.asarray(llrs, dtype=np.float64) for llrs in (real_llrs, fake_llrs)]
    chances = (1 + np.tanh(np.concatenate(groups) / 2)) / 2
    weights = np.concatenate([np.full(len(group), 0.5 / len(group)) for group in groups])
    fake = np.repeat([0.0, 1.0], [len(group) for group in groups])
    index = np.minimum((chances * bins).astype(np.int64), bins - 1)
    total = np.bincount(index, weights=weights, minlength=bins).astype(np.float64)
    with np.errstate(invalid="ignore"):
        return RatioReliability(
            total,
            np.bincount(index, weights=weights * chances, minlength=bins) / total,
            np.bincount(index, weights=weights * fake, minlength=bins) / total,
        )
