"""Above which score a detector calls an image generated."""

from __future__ import annotations

from detector.evaluation.metrics import THRESHOLD
from detector.models import Detector


def threshold_of(model: Detector) -> float:
    """The detector's own `threshold`, in 0..1, where it has one, else THRESHOLD.

    Raises:
        ValueError: its own is no number in 0..1.
    """
    own = getattr(model, "threshold", None)
    if own is None:
        return THRESHOLD
    if isinstance(own, bool) or not isinstance(own, (int, float)) or not 0 <= own <= 1:
        raise ValueError(f"the detector's threshold must be a number in 0..1, got {own!r}")
    return float(own)
