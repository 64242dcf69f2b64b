"""Degradations that images meet on their way: blur, JPEG, WebP, resizing, noise. All of them work on uint8.

Training draws them at random, which makes detectors robust to them; evaluation sweeps over them. What they compute is
what SciPy, Pillow and OpenCV compute, bit for bit, since a detector learns the traces of the very implementation.
"""

from __future__ import annotations

import importlib.util
import io
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from PIL import Image, ImageFilter, features
from torch import Tensor

Encoder = Literal["opencv", "pillow"]
"""Who codes JPEG."""

Subsampling = Literal["420", "422", "444"]
"""Chroma of JPEG: half as many rows and columns as luma, half as many columns, or as many."""

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos", "area"]
"""Pillow's resampling filters; "area" is its BOX, the mean of the pixels whose centres a pixel covers."""

_PILLOW_FILTERS: dict[str, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}

# SciPy's gaussian_filter ends its kernel here, in standard deviations.
_TRUNCATE = 4.0

# Sides in pixels, of libjpeg and of the WebP format.
_JPEG_LIMIT = 65500
_WEBP_LIMIT = 16383


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
    sigma = check_not_negative("sigma", sigma)
    radius = blur_radius(sigma)
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


def sharpen(image: Tensor, radius: float, percent: int) -> Tensor:
    """Pillow's unsharp mask, without a threshold: what editors and cameras do last.

    Args:
        image: uint8 [3, H, W].
        radius: of the blur that is taken away, in pixels, not negative.
        percent: strength, not negative; 0 returns the image.

    Returns:
        uint8 [3, H, W], channels_last.
    """
    pixels = _pixels(image)
    radius = check_not_negative("radius", radius)
    if check_not_negative("percent", percent) == 0:
        return image
    return _tensor(np.array(Image.fromarray(pixels).filter(ImageFilter.UnsharpMask(radius, int(percent), 0))))


def sharpen_reach(radius: float) -> int:
    """How many pixels to either side a sharpened one depends on: Pillow blurs with three boxes about as wide."""
    return 3 * (math.ceil(radius) + 1)


def jpeg(image: Tensor, quality: int, encoder: Encoder = "pillow", subsampling: Subsampling = "420") -> Tensor:
    """Encodes the image as JPEG and decodes it again, both by the same library with its default settings.

    Args:
        image: uint8 [3, H, W], at most 65500 pixels a side.
        quality: 1..100, on the Independent JPEG Group's scale.
        encoder: "opencv" needs the package opencv-python-headless (extra `cv`).
        subsampling: of chroma.

    Returns:
        uint8 [3, H, W], channels_last.

    Raises:
        ValueError: the encoder is unknown or not installed; no other one takes its place.
    """
    pixels = _pixels(image, _JPEG_LIMIT)
    check_quality("quality", quality)
    check_encoder("encoder", encoder)
    check_choice("subsampling", subsampling, Subsampling)
    if encoder == "pillow":
        return _through_pillow(pixels, "JPEG", quality=quality, subsampling=":".join(subsampling))
    import cv2

    factor = getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling}")
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    encoded = cv2.imencode(".jpg", pixels[:, :, ::-1], settings)[1]
    decoded = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))
    return _tensor(np.ascontiguousarray(decoded[:, :, ::-1]))


def webp(image: Tensor, quality: int) -> Tensor:
    """Encodes the image as lossy WebP and decodes it again, both by Pillow with its default settings.

    Args:
        image: uint8 [3, H, W], at most 16383 pixels a side.
        quality: 1..100, on libwebp's scale, which is not JPEG's.

    Returns:
        uint8 [3, H, W], channels_last.

    Raises:
        ValueError: Pillow was built without WebP.
    """
    pixels = _pixels(image, _WEBP_LIMIT)
    check_quality("quality", quality)
    check_webp()
    return _through_pillow(pixels, "WEBP", quality=quality)


def resize(image: Tensor, factor: float, filter: Filter = "bicubic") -> Tensor:
    """Pillow's resize, whose filters but "nearest" average when they shrink.

    Args:
        image: uint8 [3, H, W].
        factor: of both sides, see :func:`scaled`; 1 returns the image.
        filter: see :data:`Filter`.

    Returns:
        uint8 [3, H', W'], channels_last.
    """
    _check_image(image)
    return resample(image, scaled(image.shape[1:], factor), filter)


def scaled(size: Sequence[int], factor: float) -> tuple[int, int]:
    """Height and width times the factor, rounded to whole pixels, at least 2."""
    if isinstance(factor, bool) or not isinstance(factor, (int, float)):
        raise TypeError(f"factor must be a number, got {type(factor).__name__}")
    if not 0 < factor < math.inf:
        raise ValueError(f"factor must be positive, got {factor}")
    height, width = (max(2, round(side * factor)) for side in size)
    return height, width


def resample(
    image: Tensor, size: tuple[int, int], filter: Filter, box: tuple[float, float, float, float] | None = None
) -> Tensor:
    """Pillow's resize to a given size, along the rows first.

    So does Pillow itself, but from version 13 on not for tall images, which it shrinks along the columns first. It
    rounds and clips in between, so the order shows in the result, which is to depend neither on the version nor on
    whether a box is cut out of a larger image or of a part of it.

    Args:
        image: uint8 [3, H, W].
        size: H', W'.
        filter: see :data:`Filter`.
        box: top, left, bottom, right of the part to be resized, in pixels and fractions of them; the filter reaches
            beyond it where the image does. None for all of the image, which is returned if it has the size already.

    Returns:
        uint8 [3, H', W'], channels_last.
    """
    pixels = _pixels(image)
    check_choice("filter", filter, Filter)
    if box is None and size == tuple(image.shape[1:]):
        return image
    rows, columns = image.shape[1:]
    top, left, bottom, right = box or (0, 0, rows, columns)
    height, width = size
    picture = Image.fromarray(pixels).resize((width, rows), _PILLOW_FILTERS[filter], (left, 0, right, rows))
    return _tensor(np.array(picture.resize((width, height), _PILLOW_FILTERS[filter], (0, top, width, bottom))))


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
    if check_not_negative("sigma", sigma) == 0:
        return image
    noise = torch.randn(pixels.shape, generator=generator) * sigma
    return (torch.from_numpy(pixels) + noise).round_().clamp_(0, 255).to(torch.uint8).permute(2, 0, 1)


def blur_radius(sigma: float) -> int:
    """How far, in pixels, a Gaussian blur reaches."""
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


def _through_pillow(pixels: np.ndarray, format: str, **settings: Any) -> Tensor:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **settings)
    with Image.open(file) as decoded:
        return _tensor(np.array(decoded))


def _pixels(image: Tensor, limit: int | None = None) -> np.ndarray:
    """The image as a contiguous uint8 [H, W, 3] array; sides above the limit are refused."""
    _check_image(image)
    if limit is not None and max(image.shape) > limit:
        raise ValueError(f"image must have at most {limit} pixels a side, got {list(image.shape)}")
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def _check_image(image: Any) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a Tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
        raise ValueError(f"image must be [3, H, W] and not empty, got {list(image.shape)}")


def _tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)


def check_not_negative(name: str, value: Any) -> float:
    """The value. Raises TypeError or ValueError for anything but a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return value


def check_quality(name: str, value: Any) -> None:
    """Raises TypeError or ValueError for anything but a whole number in 1..100."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {type(value).__name__}")
    if not 1 <= value <= 100:
        raise ValueError(f"{name} must be in 1..100, got {value}")


def check_choice(name: str, value: Any, choices: Any) -> None:
    """Raises ValueError for anything but one of a Literal's values."""
    if value not in get_args(choices):
        raise ValueError(f"{name} must be of {', '.join(get_args(choices))}, got {value!r}")


def check_encoder(name: str, value: Any, *, installed: bool = True) -> None:
    """Raises ValueError for anything but an Encoder, one that is not installed included."""
    check_choice(name, value, Encoder)
    if value == "opencv" and installed and importlib.util.find_spec("cv2") is None:
        raise ValueError(f"{name}: opencv is not installed; pip install 'npr-kernels[cv]', or choose pillow alone")


def check_webp() -> None:
    """Raises ValueError where Pillow was built without WebP, which no published wheel of it is."""
    if not features.check("webp"):
        raise ValueError("webp: this Pillow was built without it; pip install --force-reinstall pillow")
