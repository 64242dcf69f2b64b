"""Within which a detector's verdicts are stood by: what it was trained and calibrated on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from detector.doubt.resampling import STRENGTH

if TYPE_CHECKING:
    from detector.data import Preprocessing
    from detector.models import Detector

JPEG_QUALITY = 40
"""Below it a JPEG is doubted, where neither a calibration nor a training's recipe tells: the lowest that the detector
in the box was trained on."""

TEXTURED = 0.1
"""A smaller share of textured cells is too little to judge by."""

MARGIN = 0.25
"""In the logit, to either side of the threshold of a detector that was not calibrated: half of the images that near it
move by so much when one row and one column are cut off. docs/choices.md has the figures."""

SUPPORT = 2.0
"""The factor by which the likelihood ratio has to speak for the verdict. ENFSI's guideline for evaluative reporting
(2015) calls ratios from 2 on weak support, and those below none."""


@dataclass(frozen=True)
class Limits:
    """Beyond which a verdict is withheld.

    Attributes:
        side: pixels a side of the smallest image.
        jpeg_quality: the lowest, 1..100; None where no JPEG will do.
        jpeg_source: whose lowest that is, in words.
        strength: of the peak that is a sign of resampling, see :func:`detector.doubt.find_period`.
        textured: the smallest share of textured cells, see :func:`detector.doubt.textured_share`.
        margin: in the logit, about the threshold; where neither a likelihood ratio nor a band is known.
        band: scores from which and up to which an image is neither real nor fake; None where no calibration tells. It
            holds for the threshold that it ends at.
        band_rate: the share of reals that may be above the band's lower end.
    """

    side: int
    jpeg_quality: int | None = JPEG_QUALITY
    jpeg_source: str = "that is trusted without a calibration"
    strength: float = STRENGTH
    textured: float = TEXTURED
    margin: float = MARGIN
    band: tuple[float, float] | None = None
    band_rate: float | None = None


def limits_of(model: Detector, preprocessing: Preprocessing | None = None) -> Limits:
    """The limits of a detector.

    An image needs as many pixels a side as the crops of the training. JPEGs may be as strongly compressed as the reals
    that the detector was calibrated on; where it was not, as those of its training, if its recipe had JPEG; else as
    JPEG_QUALITY says. The band is the calibration's.

    Args:
        model: what it says of itself is read, not run.
        preprocessing: treatment of the images, by default the model's own; with another one, scores are not those that
            the calibration's band was found among.

    Raises:
        ValueError: the calibration is damaged.
    """
    calibration = model.calibration or {}
    own = preprocessing is None or preprocessing == model.preprocessing
    try:
        quality, source = _jpeg_quality(calibration, model.recipe or {})
        band, rate = _band(calibration) if own else (None, None)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"a damaged calibration ({type(error).__name__}: {error})") from error
    return Limits((preprocessing or model.preprocessing).crop, quality, source, band=band, band_rate=rate)


def _jpeg_quality(calibration: Mapping[str, Any], recipe: Mapping[str, Any]) -> tuple[int | None, str]:
    """The lowest, and whose."""
    groups = calibration.get("reals", [])
    # Calibrations of earlier releases do not tell.
    if groups and all(group.get("jpeg") is not None for group in groups):
        lowest = [int(group["jpeg"]["lowest"]) for group in groups if group["jpeg"]["files"]]
        return min(lowest, default=None), "of the reals that the detector was calibrated on"
    match recipe:
        case {"jpeg_quality": [int() as quality, _]} if _has_jpeg(recipe):
            return quality, "that the detector was trained on"
    return Limits.jpeg_quality, Limits.jpeg_source


def _has_jpeg(recipe: Mapping[str, Any]) -> bool:
    return bool(recipe.get("jpeg_probability") or recipe.get("delivery_probability"))


def _band(calibration: Mapping[str, Any]) -> tuple[tuple[float, float] | None, float | None]:
    doubtful = calibration.get("doubtful")
    if doubtful is None:
        return None, None
    return (float(doubtful["threshold"]), float(calibration["threshold"])), float(doubtful["alpha"])
