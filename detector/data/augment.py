"""What befalls training images at random: Wang et al.'s blur and JPEG. Each drawing is a Delivery."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch

from detector.data.degradations import Encoder, check_encoder, check_not_negative, check_quality
from detector.data.delivery import Delivery
from detector.data.steps import Blur, Jpeg, Step


@dataclass(frozen=True)
class Augmentation:
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
            if check_not_negative(name, getattr(self, name)) > 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        for name in ("blur_sigma", "jpeg_quality"):
            object.__setattr__(self, name, _interval(name, getattr(self, name)))
        for sigma in self.blur_sigma:
            check_not_negative("blur_sigma", sigma)
        for quality in self.jpeg_quality:
            check_quality("jpeg_quality", quality)
        if isinstance(self.jpeg_encoders, str) or not self.jpeg_encoders:
            raise ValueError(f"jpeg_encoders must be a tuple of names, not empty, got {self.jpeg_encoders!r}")
        object.__setattr__(self, "jpeg_encoders", tuple(self.jpeg_encoders))
        for encoder in self.jpeg_encoders:
            check_encoder("jpeg_encoders", encoder, installed=self.jpeg_probability > 0)

    def draw(self, generator: torch.Generator) -> Delivery:
        """What befalls one image. Takes the same number of draws whatever the outcome."""
        blurred = _uniform(generator) < self.blur_probability
        low, high = self.blur_sigma
        sigma = low + (high - low) * _uniform(generator)
        compressed = _uniform(generator) < self.jpeg_probability
        lowest, highest = self.jpeg_quality
        quality = int(torch.randint(lowest, highest + 1, (), generator=generator))
        encoder = self.jpeg_encoders[int(torch.randint(len(self.jpeg_encoders), (), generator=generator))]
        steps: list[Step] = []
        if blurred:
            steps.append(Blur(sigma))
        if compressed:
            steps.append(Jpeg(quality, encoder=encoder))
        return Delivery(tuple(steps))


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), dtype=torch.float64, generator=generator).item()


def _interval(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be a lowest and a highest value, got {value!r}")
    low, high = value
    if low > high:
        raise ValueError(f"{name} must not end below its start, got {low} to {high}")
    return low, high
