"""Why a verdict is withheld: each reason a code for programs and words for people."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detector.doubt.limits import SUPPORT, Limits
from detector.doubt.resampling import find_period
from detector.doubt.texture import textured_share
from detector.verdicts import threshold_text, verdict

if TYPE_CHECKING:
    from torch import Tensor

    from detector.facts.jpeg import Jpeg

REASONS = {
    "small": "fewer pixels a side than the detector was trained on",
    "jpeg": "stronger JPEG compression than the detector was calibrated or trained on",
    "resampled": "signs of resizing",
    "flat": "one colour, or nearly so",
    "score": "too near the threshold, or without enough evidence for the verdict",
}
"""Codes, in the order in which reasons are given, and what they mean."""


@dataclass(frozen=True)
class Reason:
    """Attributes:
    code: one of REASONS.
    text: what was found in this image, without a full stop.
    """

    code: str
    text: str

    def to_dict(self) -> dict[str, str]:
        """JSON-able: code and text."""
        return {"code": self.code, "text": self.text}


def reasons_of_image(image: Tensor, jpeg: Jpeg | None, limits: Limits) -> tuple[Reason, ...]:
    """What the file shows, whatever its score.

    Args:
        image: uint8 [3, H, W], RGB, H and W at least 2.
        jpeg: how the file was compressed; None where it is no JPEG, or does not say.
    """
    _, height, width = image.shape
    found = []
    if min(height, width) < limits.side:
        found.append(Reason("small", f"{width}x{height} pixels, fewer than the {limits.side} a side of its training"))
    if jpeg is not None and limits.jpeg_quality is None:
        found.append(Reason("jpeg", "a JPEG, and none was among the reals that the detector was calibrated on"))
    elif jpeg is not None and jpeg.quality is not None and jpeg.quality < (limits.jpeg_quality or 0):
        quality = f"{'' if jpeg.exact else 'about '}{jpeg.quality}"
        text = f"JPEG of quality {quality}, below {limits.jpeg_quality}, the lowest {limits.jpeg_source}"
        found.append(Reason("jpeg", text))
    peak = find_period(image)
    if peak is not None and peak.strength > limits.strength:
        found.append(Reason("resampled", f"signs of resizing, a period of {peak.period:.2f} pixels"))
    share = textured_share(image)
    if share < limits.textured:
        found.append(Reason("flat", f"hardly any texture, in {100 * share:.1f} % of its cells of 2x2 pixels"))
    return tuple(found)


def reasons_of_score(score: float, threshold: float, llr: float | None, limits: Limits) -> tuple[Reason, ...]:
    """Whether the score is enough for its verdict: one reason or none.

    With a likelihood ratio, it has to speak for the verdict by SUPPORT. Else, with a band that a calibration found for
    this threshold, the score must not lie in it. Else its logit must not be within the margin of the threshold's.

    Args:
        score: 0..1.
        threshold: in 0..1.
        llr: log10 of the likelihood ratio of "fake" over "real"; None where it is not known.
    """
    word = verdict(score, threshold)
    if llr is not None:
        support = llr if word == "fake" else -llr
        if support < math.log10(SUPPORT):
            text = f'the likelihood ratio (log10 {llr:+.2f}) does not speak for "{word}" by a factor of {SUPPORT:g}'
            return (Reason("score", text),)
    elif limits.band is not None and limits.band_rate is not None and threshold == limits.band[1]:
        if limits.band[0] < score <= threshold:
            text = (
                f"a score between {threshold_text(limits.band[0])}, above which at most "
                f"{100 * limits.band_rate:g} % of such reals lie, and the threshold of {threshold_text(threshold)}"
            )
            return (Reason("score", text),)
    elif abs(_logit(score) - _logit(threshold)) < limits.margin:
        return (Reason("score", f"the score is near the threshold of {threshold_text(threshold)}"),)
    return ()


def _logit(score: float) -> float:
    if not 0 < score < 1:
        return math.copysign(math.inf, score - 0.5)
    return math.log(score / (1 - score))
