"""Pictures for the page: the image as the detector has it, where its evidence lies, the residual and the spectrum."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from detector.explain import local_logits, spectrum
from detector.models import Detector
from npr_kernels import npr_residual

EXPLAINED = 2048
"""Pixels a side, at most, of the part of an image that is explained: its middle. The map of a larger one would keep
others waiting."""

# Pixels a side of a picture, at most; larger ones are averaged down.
_SHOWN = 1024

# Side of the spectrum; that of smaller images is their shorter side.
_SPECTRUM = 256

# Opacity of the map where the evidence is nil and where it is strongest.
_FAINT, _STRONG = 0.15, 0.8

# Ends and middle of scales from low to high, RGB: blue for real and red for generated; and from dark to light.
_DIVERGING = ((33, 102, 172), (247, 247, 247), (178, 24, 43))
_RISING = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))


@dataclass(frozen=True)
class Picture:
    """A picture of an image or of a part of it.

    Attributes:
        name: "image", "activation", "residual" or "spectrum".
        text: what it shows, for who does not see it.
        png: the file.
        region: left, top, width and height of what it shows, in the image's pixels; None for the spectrum.
    """

    name: str
    text: str
    png: bytes
    region: tuple[int, int, int, int] | None


def draw(model: Detector, image: Tensor) -> list[Picture]:
    """The image, the activation map to lay over it, the residual and the spectrum.

    Args:
        model: in evaluation mode.
        image: uint8 [3, H, W], as the model's preprocessing gives it.
    """
    height, width = image.shape[1:]
    top, left, part = _middle(image)
    region = (left, top, part.shape[2], part.shape[1])
    whole = part.shape[1:] == image.shape[1:]
    of = "" if whole else f" of the middle {part.shape[2]} x {part.shape[1]} pixels"
    logits = local_logits(model, part).numpy()
    magnitude = npr_residual(part[None])[0].float().abs().mean(dim=0)
    residual = _reduced(magnitude[None])[0].numpy()
    top_end = max(float(np.percentile(residual, 99)), 1.0)
    side = min(_SPECTRUM, part.shape[1], part.shape[2])
    frequencies = np.log10(spectrum(part, side) + 1e-2)
    low, high = float(frequencies.min()), float(frequencies.max())
    share = float((logits > 0).mean())
    return [
        Picture("image", f"The picture, {width} x {height} pixels", _png(_pixels(image)), (0, 0, width, height)),
        Picture(
            "activation",
            f"Activation map{of}: {100 * share:.0f} % of it speaks for generated, in red, the rest for real, in blue; "
            f"local logits from {logits.min():+.2f} to {logits.max():+.2f}",
            _png(_evidence(logits)),
            _covered(region, logits, model.feature_stride),
        ),
        Picture(
            "residual",
            f"Residual of neighbouring pixels{of}, from 0, dark, to {top_end:.0f} grey levels, light",
            _png(_scaled(residual / top_end, _RISING)),
            region,
        ),
        Picture(
            "spectrum",
            f"Spectrum{of} of what a median filter takes away, frequency 0 in the middle, {side} x {side}; "
            "single peaks away from the middle may be traces of up-sampling",
            _png(_scaled((frequencies - low) / max(high - low, 1e-9), _RISING)),
            None,
        ),
    ]


def _middle(image: Tensor) -> tuple[int, int, Tensor]:
    """Top and left of the part that is explained, multiples of 64 so that cells and features stay where they were; and
    the part."""
    height, width = image.shape[1:]
    top, left = (max(0, (side - EXPLAINED) // 2 // 64 * 64) for side in (height, width))
    return top, left, image[:, top : top + EXPLAINED, left : left + EXPLAINED]


def _covered(region: tuple[int, int, int, int], logits: NDArray[np.float64], stride: int) -> tuple[int, int, int, int]:
    """Where the map lies: its last row and column may stand for pixels beyond the region."""
    left, top, _, _ = region
    height, width = logits.shape
    return left, top, width * stride, height * stride


def _pixels(image: Tensor) -> NDArray[np.uint8]:
    """[3, H, W] as [h, w, 3], averaged down."""
    factor = _factor(image)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return np.asarray(Image.fromarray(pixels).reduce(factor)) if factor > 1 else pixels


def _reduced(values: Tensor) -> Tensor:
    """float [1, H, W], averaged down."""
    factor = _factor(values)
    return F.avg_pool2d(values[None], factor, ceil_mode=True)[0] if factor > 1 else values


def _factor(image: Tensor) -> int:
    return -(-max(image.shape[1:]) // _SHOWN)


def _evidence(logits: NDArray[np.float64]) -> NDArray[np.uint8]:
    """RGBA [h, w, 4]: the sign is the colour, and the size is colour and opacity.

    They are full from the 95th percentile on: a few logits are many times the others.
    """
    strength = np.clip(logits / max(float(np.percentile(np.abs(logits), 95)), 1e-6), -1, 1)
    colours = _scaled((1 + strength) / 2, _DIVERGING)
    alpha = 255 * (_FAINT + (_STRONG - _FAINT) * np.abs(strength))
    return np.dstack([colours, np.rint(alpha).astype(np.uint8)])


def _scaled(values: NDArray[np.floating], scale: tuple[tuple[int, int, int], ...]) -> NDArray[np.uint8]:
    """RGB [h, w, 3] of values in 0..1; those beyond have the ends' colours."""
    stops = np.linspace(0, 1, len(scale))
    channels = [np.interp(values, stops, [colour[i] for colour in scale]) for i in range(3)]
    return np.rint(np.dstack(channels)).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=3)
    return file.getvalue()
