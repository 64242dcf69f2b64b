"""When a verdict is withheld, and why: what the file shows first, then how near the score is to the threshold.

Free of torch until an image is looked at, and of any detector but for what it says of itself.
"""

from detector.doubt.limits import Limits, limits_of
from detector.doubt.reasons import REASONS, Reason, reasons_of_image, reasons_of_score
from detector.doubt.resampling import Peak, find_period
from detector.doubt.texture import textured_share

__all__ = [
    "REASONS",
    "Limits",
    "Peak",
    "Reason",
    "find_period",
    "limits_of",
    "reasons_of_image",
    "reasons_of_score",
    "textured_share",
]
