"""How sure a share of images is: exact intervals and bounds of a binomial proportion."""

from __future__ import annotations

import math

import numpy as np

from detector.evaluation.bootstrap import LEVEL, Interval


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> Interval | None:
    """The interval of Clopper and Pearson (Biometrika 26, 1934): it holds the true share at least that often.

    Its lower end is the share p at which `successes` or more come up with probability (1 - level) / 2, its upper end
    the one at which as few do. It is about images drawn independently of one kind; another kind has another share.

    Args:
        successes: 0..trials.
        trials: at least 0.
        level: in 0..1, both ends excluded.

    Returns:
        The ends, in 0..1; None without trials.

    Raises:
        ValueError: an argument is out of range.
    """
    _check_counts(successes, trials)
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    if not trials:
        return None
    tail = (1 - level) / 2
    # As few successes at p are as many failures at 1 - p.
    return _lower_end(successes, trials, tail), 1 - _lower_end(trials - successes, trials, tail)


def upper_bound(successes: int, trials: int, confidence: float = LEVEL) -> float:
    """The one-sided bound of Clopper and Pearson: the true share is at most that, with that confidence.

    It is the share p at which `successes` or fewer come up with probability 1 - confidence.

    Args:
        successes: 0..trials.
        trials: at least 0.
        confidence: at least 0.5, below 1.

    Returns:
        In 0..1; 1 without trials, which say nothing.

    Raises:
        ValueError: an argument is out of range.
    """
    _check_counts(successes, trials)
    if not 0.5 <= confidence < 1:
        raise ValueError(f"confidence must be at least 0.5 and below 1, got {confidence}")
    return 1 - _lower_end(trials - successes, trials, 1 - confidence)


def _check_counts(successes: int, trials: int) -> None:
    if not 0 <= successes <= trials:
        raise ValueError(f"successes must be in 0..trials, got {successes} of {trials}")


def _lower_end(successes: int, trials: int, tail: float) -> float:
    """The p at which P(X >= successes) equals `tail`, by bisection down to neighbouring numbers."""
    if successes == 0:
        return 0.0
    # The tail grows with p, from 0 to a half or more at the observed share, the mean, next to which the median lies.
    low, high = 0.0, successes / trials
    while low < (middle := (low + high) / 2) < high:
        if _upper_tail(successes, trials, middle) < tail:
            low = middle
        else:
            high = middle
    return high


def _upper_tail(successes: int, trials: int, p: float) -> float:
    """P(X >= successes) of a binomial X, for 0 < p < successes / trials."""
    first = (
        math.lgamma(trials + 1)
        - math.lgamma(successes + 1)
        - math.lgamma(trials - successes + 1)
        + successes * math.log(p)
        + (trials - successes) * math.log1p(-p)
    )
    # Each further term is the one before times a ratio, which is below 1 where p is below the observed share.
    further = np.arange(successes, trials)
    ratios = (trials - further) / (further + 1) * (p / (1 - p))
    return math.exp(first) * (1 + float(np.cumprod(ratios).sum()))
