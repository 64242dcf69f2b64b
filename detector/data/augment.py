"""What befalls training images at random: the blur and JPEG of Wang et al., or whole histories.

Each drawing is a Delivery, so that it can be printed and done again. The drawings follow from the generator and the
numbers that they are asked with alone: neither from what is installed nor from the images' labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, get_args

import torch

from detector.data.degradations import (
    Encoder,
    Filter,
    Subsampling,
    check_encoder,
    check_not_negative,
    check_quality,
    check_webp,
)
from detector.data.delivery import Delivery
from detector.data.steps import Blur, Jpeg, Noise, Resize, Sharpen, Shift, Size, Step, Webp

T = TypeVar("T")


class Augmentation(Protocol):
    """What befalls training images: a way to draw deliveries."""

    def draw(self, generator: torch.Generator, size: Size, crop: int) -> Delivery:
        """The delivery of one image. Takes the same number of draws whatever the outcome.

        Args:
            generator: the only source of randomness.
            size: height and width of the image.
            crop: side of the square that is cut out of the delivered image, which is not made smaller than that.
        """


@dataclass(frozen=True)
class BlurJpeg:
    """Random blur, then random JPEG, as Wang et al. degrade training images (CVPR 2020, Section 4.1).

    Attributes:
        blur_probability: of a Gaussian blur.
        blur_sigma: lowest and highest standard deviation in pixels, drawn uniformly.
        jpeg_probability: of a JPEG compression.
        jpeg_quality: lowest and highest quality, both included, drawn uniformly.
        jpeg_encoders: "opencv" and "pillow", or one of them; drawn uniformly.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range; JPEG is asked for of an encoder that is
            not installed.
    """

    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.0, 3.0)
    jpeg_probability: float = 0.0
    jpeg_quality: tuple[int, int] = (30, 100)
    jpeg_encoders: tuple[Encoder, ...] = get_args(Encoder)

    def __post_init__(self) -> None:
        for name in ("blur_probability", "jpeg_probability"):
            _check_probability(name, getattr(self, name))
        object.__setattr__(self, "blur_sigma", _interval("blur_sigma", self.blur_sigma))
        for sigma in self.blur_sigma:
            check_not_negative("blur_sigma", sigma)
        object.__setattr__(self, "jpeg_quality", _qualities(self.jpeg_quality))
        object.__setattr__(self, "jpeg_encoders", _encoders(self.jpeg_encoders, self.jpeg_probability))

    def draw(self, generator: torch.Generator, size: Size, crop: int) -> Delivery:
        """See :class:`Augmentation`. The size of the image changes nothing, and does not change."""
        blurred = _uniform(generator) < self.blur_probability
        low, high = self.blur_sigma
        sigma = low + (high - low) * _uniform(generator)
        compressed = _uniform(generator) < self.jpeg_probability
        quality = _whole(*self.jpeg_quality, generator)
        encoder = _one(self.jpeg_encoders, generator)
        steps: list[Step] = []
        if blurred:
            steps.append(Blur(sigma))
        if compressed:
            steps.append(Jpeg(quality, encoder=encoder))
        return Delivery(tuple(steps))


HISTORIES: tuple[tuple[str, ...], ...] = (
    ("jpeg",),
    ("jpeg",),
    ("jpeg",),
    ("shift", "jpeg"),
    ("jpeg", "shift", "jpeg"),
    ("webp",),
    ("shift", "webp"),
    ("resize",),
    ("resize", "jpeg"),
    ("jpeg", "resize", "jpeg"),
)
"""What RandomDelivery draws among, by the names of the steps: what cameras, editors and web sites do. Few are resized,
which leaves little to learn from.

The crops that training takes shift the grid of cells already; "shift" is there to move it over the grid of a codec.
"""

EDITED = 0.35
"""Part of the images that are edited."""

SHRINKING = (0.3, 1.0)
"""Lowest and highest factor that is drawn."""

_SHRINKING_FILTERS: tuple[Filter, ...] = ("bilinear", "bicubic", "lanczos", "area")
_SUBSAMPLINGS: tuple[Subsampling, ...] = ("420", "444")
_SHIFT = 15  # rows and columns, at most: any place on the grid of JPEG's and WebP's 16x16 blocks


@dataclass(frozen=True)
class RandomDelivery:
    """Random histories, the same for real and generated images, so that none of them tells the label.

    A third of the images is edited, sharpened, blurred or made noisy, after resizing where they are resized and first
    otherwise. Then comes one of HISTORIES, each as likely as the others. The factor of "resize" is uniform over
    SHRINKING as far as the crop allows, its filter bilinear, bicubic, lanczos or area; "shift" cuts off 0 to 15 rows
    and columns, as far as the crop allows; JPEG halves chroma or does not; an image that JPEG meets twice gets both
    from independent draws.

    Attributes:
        probability: of one of HISTORIES.
        jpeg_quality: lowest and highest quality of JPEG and WebP, both included, drawn uniformly.
        jpeg_encoders: "opencv" and "pillow", or one of them; drawn uniformly.

    Raises:
        TypeError, ValueError: a value is of the wrong kind or out of range; an encoder is not installed.
    """

    probability: float = 2 / 3
    jpeg_quality: tuple[int, int] = (30, 100)
    jpeg_encoders: tuple[Encoder, ...] = get_args(Encoder)

    def __post_init__(self) -> None:
        _check_probability("probability", self.probability)
        object.__setattr__(self, "jpeg_quality", _qualities(self.jpeg_quality))
        object.__setattr__(self, "jpeg_encoders", _encoders(self.jpeg_encoders, self.probability))
        if self.probability > 0:
            check_webp()

    def draw(self, generator: torch.Generator, size: Size, crop: int) -> Delivery:
        """See :class:`Augmentation`."""
        happens = _uniform(generator) < self.probability
        history = _one(HISTORIES, generator)
        low, high = SHRINKING
        low = min(max(low, crop / min(size)), high)
        # Three decimals are enough, and read well; upwards, for the crop's sake.
        factor = min(math.ceil(1000 * (low + (high - low) * _uniform(generator))) / 1000, high)
        filter = _one(_SHRINKING_FILTERS, generator)
        rows, columns = (min(_whole(0, _SHIFT, generator), max(side - crop, 0)) for side in size)
        edited = (_uniform(generator) < EDITED) and self.probability > 0
        edits = (
            Sharpen(_between(0.5, 2.0, generator), _whole(30, 180, generator)),
            Blur(_between(0.3, 1.0, generator)),
            Noise(_between(0.7, 6.0, generator)),
        )
        edit: Step = _one(edits, generator)
        codings = [
            (_whole(*self.jpeg_quality, generator), _one(_SUBSAMPLINGS, generator), _one(self.jpeg_encoders, generator))
            for _ in range(2)
        ]
        jpegs = (Jpeg(*coding) for coding in codings)
        steps: list[Step] = []
        for name in history if happens else ():
            match name:
                case "resize":
                    steps.append(Resize(factor, filter))
                case "shift":
                    steps.append(Shift(rows, columns))
                case "webp":
                    steps.append(Webp(codings[0][0]))
                case "jpeg":
                    steps.append(next(jpegs))
        if edited:
            steps.insert(int(bool(steps) and isinstance(steps[0], Resize)), edit)
        return Delivery(tuple(steps))


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), dtype=torch.float64, generator=generator).item()


def _between(lowest: float, highest: float, generator: torch.Generator) -> float:
    """Two decimals are enough, and read well."""
    return round(lowest + (highest - lowest) * _uniform(generator), 2)


def _whole(lowest: int, highest: int, generator: torch.Generator) -> int:
    return int(torch.randint(lowest, highest + 1, (), generator=generator))


def _one(choices: Sequence[T], generator: torch.Generator) -> T:
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def _check_probability(name: str, value: Any) -> None:
    if check_not_negative(name, value) > 1:
        raise ValueError(f"{name} must be in 0..1, got {value}")


def _qualities(value: Any) -> tuple[int, int]:
    low, high = _interval("jpeg_quality", value)
    for quality in (low, high):
        check_quality("jpeg_quality", quality)
    return low, high


def _encoders(value: Any, probability: float) -> tuple[Encoder, ...]:
    """They need not be installed where nothing is ever compressed."""
    if isinstance(value, str) or not value:
        raise ValueError(f"jpeg_encoders must be a tuple of names, not empty, got {value!r}")
    for encoder in value:
        check_encoder("jpeg_encoders", encoder, installed=probability > 0)
    return tuple(value)


def _interval(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be a lowest and a highest value, got {value!r}")
    low, high = value
    if low > high:
        raise ValueError(f"{name} must not end below its start, got {low} to {high}")
    return low, high
