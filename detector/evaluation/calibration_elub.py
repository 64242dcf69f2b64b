"""How large and how small a likelihood ratio the images of a calibration can support: the bounds of Vergeer et al.

Vergeer, van Es, de Jongh, Alberink and Stoel, "Numerical likelihood ratios outputted by LR systems are often based on
extrapolation: When to stop extrapolating?", Science & Justice 56, 2016: the empirical lower and upper bound, ELUB.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def elub(real_llrs: ArrayLike, fake_llrs: ArrayLike) -> tuple[float, float]:
    """The range of log-likelihood ratios within which deciding by them is never worse than not having them.

    Who decides "fake" for ratios of t and more, at prior odds of 1/t, errs at a rate of FNR + t FPR in units of the
    prior probability of fakes. Who has no ratios decides by the prior alone and errs at min(1, t) in these units. The
    quotient is the normalised Bayes error rate. As the images may have missed a misleading ratio by chance, one real
    with an infinite ratio and one fake with a ratio of 0 are added to them. From t = 1 outwards on either side, the
    bound is where the error rate first exceeds 1. For perfectly separated labels these are about
    1 / F and R, the numbers of fakes and reals.

    Args:
        real_llrs, fake_llrs: [R] and [F], natural logarithms, at least one of each; may be infinite.

    Returns:
        The bounds, natural logarithms: the lower at most 0, the upper at least 0, both finite. (0, 0) for ratios that
        are nowhere worth having. The paper searches a grid; this is exact.

    Raises:
        ValueError: there is no real or no fake, or a ratio is NaN.
    """
    reals, fakes = np.asarray(real_llrs, dtype=np.float64), np.asarray(fake_llrs, dtype=np.float64)
    for name, llrs in (("real_llrs", reals), ("fake_llrs", fakes)):
        if llrs.ndim != 1 or not llrs.size:
            raise ValueError(f"{name} must be [N] with at least one ratio, got shape {list(llrs.shape)}")
        if np.isnan(llrs).any():
            raise ValueError(f"{name} must be numbers, got nan")
    # Small ratios are large ones of the labels exchanged.
    return 0.0 - _upper(against=-fakes, supported=-reals), _upper(against=reals, supported=fakes)


def _upper(against: NDArray[np.float64], supported: NDArray[np.float64]) -> float:
    """The largest x >= 0 with t (A + 1) / (n_against + 1) <= S / (n_supported + 1) for all t from 1 to e^x, where A and
    S count the ratios of t and more."""
    values = np.unique(np.concatenate([against, supported]))
    ends = values[values > 0]  # of the steps of A and S: these are constant from one value, excluded, to the next
    starts = np.concatenate([[0.0], ends[:-1]])
    a = len(against) - np.searchsorted(np.sort(against), ends)
    s = len(supported) - np.searchsorted(np.sort(supported), ends)
    with np.errstate(divide="ignore"):
        limits = np.log(s / (len(supported) + 1)) - np.log((a + 1) / (len(against) + 1))
    beyond = np.flatnonzero(limits < ends)
    if beyond.size:
        return max(float(starts[beyond[0]]), float(limits[beyond[0]]))
    return float(ends[-1]) if ends.size else 0.0
