"""The cost of log-likelihood ratios, Cllr, and what of it no order-keeping calibration could take away.

Brümmer and du Preez, "Application-independent evaluation of speaker detection", Computer Speech & Language 20, 2006.
All ratios here are natural logarithms, of "fake" over "real".
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from detector.evaluation.calibration_pav import pool_adjacent_violators

# Scores are float64, which tells no score above from 1; scores of 0 are as far from it, so that both labels are alike.
_NEAREST = 2.0**-53


def logits_of(scores: ArrayLike) -> NDArray[np.float64]:
    """ln(score / (1 - score)), of scores in 0..1; those nearer to 0 or 1 than 2^-53 count as that near, +-36.7."""
    clipped = np.clip(np.asarray(scores, dtype=np.float64), _NEAREST, 1 - _NEAREST)
    return np.log(clipped) - np.log1p(-clipped)


def cllr(real_llrs: ArrayLike, fake_llrs: ArrayLike) -> float | None:
    """The mean cost in bits: 1/2 mean over fakes of log2(1 + 1/LR) + 1/2 mean over reals of log2(1 + LR).

    0 for perfect ratios, 1 for ratios of 1, which say nothing, and more for those that mislead; both labels weigh the
    same, whatever their counts.

    Args:
        real_llrs, fake_llrs: [R] and [F]; infinite ones are allowed, and cost nothing or infinitely much.

    Returns:
        None without reals or without fakes.
    """
    reals, fakes = np.asarray(real_llrs, dtype=np.float64), np.asarray(fake_llrs, dtype=np.float64)
    if not reals.size or not fakes.size:
        return None
    return float(_bits(reals).mean() + _bits(-fakes).mean()) / 2


def cllr_min(real_values: ArrayLike, fake_values: ArrayLike) -> float | None:
    """Cllr of the best ratios that grow with the score, those of pool adjacent violators on these very images.

    What is left tells how well the labels are separated; Cllr minus it, how badly the ratios are calibrated.

    Args:
        real_values, fake_values: [R] and [F], scores, or whatever grows with them; finite.

    Returns:
        In 0..1; None without reals or without fakes.
    """
    if not np.size(real_values) or not np.size(fake_values):
        return None
    blocks = pool_adjacent_violators(real_values, fake_values)
    # A block without a label has an infinite ratio, and costs that label nothing.
    with_reals, with_fakes = blocks.reals > 0, blocks.fakes > 0
    real_cost = (blocks.reals[with_reals] * _bits(blocks.llrs[with_reals])).sum() / blocks.reals.sum()
    fake_cost = (blocks.fakes[with_fakes] * _bits(-blocks.llrs[with_fakes])).sum() / blocks.fakes.sum()
    return float(real_cost + fake_cost) / 2


def _bits(llrs: NDArray[np.float64]) -> NDArray[np.float64]:
    """log2(1 + e^llr)"""
    return np.logaddexp(0, llrs) / math.log(2)
