"""From a score to a word: above which score an image is called generated. Free of torch."""

from __future__ import annotations

import math
from typing import Any

UNSURE = "unsure"
"""The verdict that is neither "real" nor "fake"; :mod:`detector.doubt` says when."""

THRESHOLD = 0.5
"""Of detectors that were given no other, and of accuracies as the papers report them."""

ALPHA, CONFIDENCE = 0.01, 0.95
"""Of a calibration, unless others are asked for: the share of reals that may be called fake, and how sure that is."""

INTERVAL_CONFIDENCE = 0.99
"""That the whole image's score lies in the interval of one that was read in part, unless another is asked for."""

PRECISIONS = ("float32", "bfloat16", "int8")
"""Of the residual blocks in inference: bfloat16 on CUDA devices alone, int8 on the CPU alone."""


def verdict(score: float, threshold: float) -> str:
    """ "fake" for scores above the threshold, otherwise "real"."""
    return "fake" if score > threshold else "real"


def threshold_text(value: float) -> str:
    """The threshold with six digits, counted from the nearer end of 0..1: 0.5, 1.25e-07, 0.999999875."""
    if value <= 0.5 or value >= 1:
        return f"{value:g}"
    decimals = 5 - math.floor(math.log10(1 - value))
    return f"{value:.{decimals}f}".rstrip("0")


def check_threshold(value: Any) -> float:
    """The value, where it is a number in (0, 1): at 0 or 1 one of the words would never be said.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise ValueError(f"threshold must be a number between 0 and 1, got {value!r}")
    return float(value)
