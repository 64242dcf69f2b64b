"""Degradations that images meet on their way: blur, JPEG, resizing, noise. All of them work on uint8.

Training draws them at random (Wang et al., CVPR 2020, Section 4.1: blur, then JPEG, before the crop), which makes
detectors robust to them; evaluation sweeps over them. What they compute is what SciPy, Pillow and OpenCV compute, bit
for bit, since a detector learns the traces of the very implementation.
"""

from __future__ import annotations

import importlib.util
import io
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Encoder = Literal["opencv", "pillow"]

# SciPy's gaussian_filter ends its kernel here, in standard deviations.
_TRUNCATE = 4.0

# JPEG codes 16x16 pixels together (two 8x8 blocks of chroma at half resolution) and knows nothing of the others, but
# decoders interpolate chroma with one sample, two pixels, of the neighbouring blocks.
_JPEG_BLOCK = 16
_CHROMA_REACH = 2


def gaussian_blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur as `scipy.ndimage.gaussian_filter` blurs each uint8 channel, which is what the papers used.

    Rows are mirrored at the borders, the kernel ends at four deviations, and the result is cut off to uint8, not
    rounded, after the columns and again after the rows: a blurred image is half a level to one level darker. Equal bit
    for bit where SciPy is compiled without fused multiply-adds, as it is for x86-64.

    Args:
        image: uint8 [3, H, W].
        sigma: standard deviation in pixels, not negative; 0 returns the image.

    Returns:
        uint8 [3, H, W], channels_last.
    """
    pixels = _pixels(image)
    sigma = _non_negative("sigma", sigma)
    radius = _blur_radius(sigma)
    if radius == 0:
        return image
    distances = np.arange(-radius, radius + 1)
    weights = np.exp(-0.5 / (sigma * sigma) * distances**2)
    weights = (weights / weights.sum())[radius:]
    blurred = np.empty_like(pixels)
    for channel in range(3):
        columns = _blur_columns(pixels[:, :, channel], weights)
        blurred[:, :, channel] = _blur_columns(columns.T, weights).T
    return _tensor(blurred)


def jpeg(image: Tensor, quality: int, encoder: Encoder = "pillow") -> Tensor:
    """Encodes the image as JPEG and decodes it again, both by the same library with its default settings.

    Args:
        image: uint8 [3, H, W].
        quality: 1..100, on the Independent JPEG Group's scale.
        encoder: "opencv" needs the package opencv-python-headless (extra `cv`).

    Returns:
        uint8 [3, H, W], channels_last.

    Raises:
        ValueError: the encoder is unknown or not installed; no other one takes its place.
    """
    pixels = _pixels(image)
    _check_quality("quality", quality)
    _check_encoder("encoder", encoder)
    if encoder == "pillow":
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=quality)
        with Image.open(file) as decoded:
            return _tensor(np.array(decoded))
    import cv2

    encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return _tensor(np.ascontiguousarray(decoded[:, :, ::-1]))


def resize(image: Tensor, factor: float) -> Tensor:
    """Pillow's bicubic resize, which averages when it shrinks.

    Args:
        image: uint8 [3, H, W].
        factor: of both sides, which are rounded to whole pixels, at least 2; 1 returns the image.

    Returns:
        uint8 [3, H', W'], channels_last.
    """
    pixels = _pixels(image)
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        raise TypeError(f"factor must be a number, got {type(factor).__name__}")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be positive, got {factor}")
    height, width = (max(2, round(side * factor)) for side in image.shape[1:])
    if (height, width) == tuple(image.shape[1:]):
        return image
    return _tensor(np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)))


def gaussian_noise(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Adds independent normal noise to every value, then rounds and clips to 0..255.

    Args:
        image: uint8 [3, H, W].
        sigma: standard deviation in grey levels, not negative; 0 returns the image.
        generator: the only source of randomness.

    Returns:
        uint8 [3, H, W], channels_last.
    """
    pixels = _pixels(image)
    if _non_negative("sigma", sigma) == 0:
        return image
    noise = torch.randn(pixels.shape, generator=generator) * sigma
    return (torch.from_numpy(pixels) + noise).round_().clamp_(0, 255).to(torch.uint8).permute(2, 0, 1)


@dataclass(frozen=True)
class Degradation:
    """What was drawn for one image: blur, then JPEG.

    Attributes:
        blur_sigma: standard deviation in pixels; None for no blur.
        jpeg_quality: 1..100; None for no JPEG.
        jpeg_encoder: "opencv" or "pillow".
    """

    blur_sigma: float | None = None
    jpeg_quality: int | None = None
    jpeg_encoder: Encoder = "pillow"

    def __call__(self, image: Tensor) -> Tensor:
        """uint8 [3, H, W] -> the degraded image, of the same shape; the image itself where nothing was drawn."""
        if self.blur_sigma is not None:
            image = gaussian_blur(image, self.blur_sigma)
        if self.jpeg_quality is not None:
            image = jpeg(image, self.jpeg_quality, self.jpeg_encoder)
        return image

    def crop(self, image: Tensor, top: int, left: int, side: int) -> Tensor:
        """`self(image)[:, top : top + side, left : left + side]`, bit for bit.

        No more is computed than the crop depends on, so that a small crop of a large photograph is cheap.
        """
        height, width = image.shape[1:]
        first_row, last_row = self._needed(top, side, height)
        first_column, last_column = self._needed(left, side, width)
        part = self(image[:, first_row:last_row, first_column:last_column])
        top, left = top - first_row, left - first_column
        return part[:, top : top + side, left : left + side]

    def _needed(self, start: int, length: int, size: int) -> tuple[int, int]:
        """The rows (or columns) of an image that so many of the degraded one, from `start` on, depend on."""
        stop = start + length
        if self.jpeg_quality is not None:
            start = (start - _CHROMA_REACH) // _JPEG_BLOCK * _JPEG_BLOCK
            stop = -(-(stop + _CHROMA_REACH) // _JPEG_BLOCK) * _JPEG_BLOCK
        if self.blur_sigma is not None:
            # In whole blocks, for JPEG's sake: the part is coded from its own corner on.
            reach = -(-_blur_radius(self.blur_sigma) // _JPEG_BLOCK) * _JPEG_BLOCK
            start, stop = start - reach, stop + reach
        return max(start, 0), min(stop, size)


@dataclass(frozen=True)
class Augmentation:
    """Random degradations of training images (Wang et al. 2020, Section 4.1).

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
            if _non_negative(name, getattr(self, name)) > 1:
                raise ValueError(f"{name} must be in 0..1, got {getattr(self, name)}")
        for name in ("blur_sigma", "jpeg_quality"):
            object.__setattr__(self, name, _interval(name, getattr(self, name)))
        for sigma in self.blur_sigma:
            _non_negative("blur_sigma", sigma)
        for quality in self.jpeg_quality:
            _check_quality("jpeg_quality", quality)
        if isinstance(self.jpeg_encoders, str) or not self.jpeg_encoders:
            raise ValueError(f"jpeg_encoders must be a tuple of names, not empty, got {self.jpeg_encoders!r}")
        object.__setattr__(self, "jpeg_encoders", tuple(self.jpeg_encoders))
        for encoder in self.jpeg_encoders:
            _check_encoder("jpeg_encoders", encoder, installed=self.jpeg_probability > 0)

    def draw(self, generator: torch.Generator) -> Degradation:
        """The degradation of one image. Takes the same number of draws whatever the outcome."""
        blurred = _uniform(generator) < self.blur_probability
        low, high = self.blur_sigma
        sigma = low + (high - low) * _uniform(generator)
        compressed = _uniform(generator) < self.jpeg_probability
        lowest, highest = self.jpeg_quality
        quality = int(torch.randint(lowest, highest + 1, (), generator=generator))
        encoder = self.jpeg_encoders[int(torch.randint(len(self.jpeg_encoders), (), generator=generator))]
        return Degradation(sigma if blurred else None, quality if compressed else None, encoder)


def _blur_radius(sigma: float) -> int:
    return int(_TRUNCATE * sigma + 0.5)


def _blur_columns(plane: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """uint8 [H, W] filtered along H with weights[|distance|], in float64 and in SciPy's order of additions.

    The order matters: on a flat area the sum falls on a whole number, or just short of it and is cut off to one less.
    """
    height, radius = len(plane), len(weights) - 1
    padded = np.pad(plane, ((radius, radius), (0, 0)), mode="symmetric").astype(np.float64)
    total = padded[radius : radius + height] * weights[0]
    pair = np.empty_like(total)
    for distance in range(radius, 0, -1):
        above, below = radius - distance, radius + distance
        np.add(padded[above : above + height], padded[below : below + height], out=pair)
        pair *= weights[distance]
        total += pair
    return total.astype(np.uint8)


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), dtype=torch.float64, generator=generator).item()


def _pixels(image: Tensor) -> np.ndarray:
    """The image as a contiguous uint8 [H, W, 3] array."""
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a Tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image must be [3, H, W] and not empty, got {list(image.shape)}")
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def _non_negative(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return value


def _interval(name: str, value: Any) -> tuple[Any, Any]:
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ValueError(f"{name} must be a lowest and a highest value, got {value!r}")
    low, high = value
    if low > high:
        raise ValueError(f"{name} must not end below its start, got {low} to {high}")
    return low, high


def _check_quality(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not 1 <= value <= 100:
        raise ValueError(f"{name} must be in 1..100, got {value}")


def _check_encoder(name: str, value: Any, *, installed: bool = True) -> None:
    if value not in get_args(Encoder):
        raise ValueError(f"{name} must be of {', '.join(get_args(Encoder))}, got {value!r}")
    if value == "opencv" and installed and importlib.util.find_spec("cv2") is None:
        raise ValueError(f"{name}: opencv is not installed; pip install 'npr-kernels[cv]', or choose pillow alone")
