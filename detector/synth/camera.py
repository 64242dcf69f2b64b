"""A simulated camera: from linear light to a JPEG photograph, through every step of a simple real pipeline.

exposure and colour response -> optics -> Bayer mosaic -> shot and read noise -> quantisation -> white balance ->
demosaicing -> tone curve -> JPEG. A stand-in for photographs needs the traces of all of these, because they, and not
the scene, are what tells a photograph's fine structure from a generator's.
"""

from __future__ import annotations

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

_WHITE_LEVEL = 4095  # 12-bit converter

# Malvar, He and Cutler 2004: linear demosaicing with gradient correction, 5x5 filters in eighths.
_GREEN = [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]]
_SAME_ROW = [[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]
_DIAGONAL = [[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]]
_SAME_COLUMN = [list(column) for column in zip(*_SAME_ROW, strict=True)]
_FILTERS = torch.tensor([_GREEN, _SAME_ROW, _SAME_COLUMN, _DIAGONAL])[:, None] / 8


def photograph(scene: np.ndarray, rng: np.random.Generator) -> bytes:
    """Takes a photograph of a scene with a camera drawn at random: as `develop`, and JPEG quality.

    Args:
        scene: float32 [H, W, 3], linear light, not negative; H and W at least 4.
        rng: the only source of randomness.

    Returns:
        A JPEG file.
    """
    pixels = develop(scene, rng)
    return _jpeg(pixels, quality=int(rng.integers(88, 98)), subsampling=int(rng.choice([0, 2])))


def develop(scene: np.ndarray, rng: np.random.Generator) -> Tensor:
    """What a camera drawn at random makes of a scene before it compresses: lens, sensor, light and tone curve.

    Args:
        scene: float32 [H, W, 3], linear light, not negative; H and W at least 4.
        rng: the only source of randomness.

    Returns:
        uint8 [3, H, W]
    """
    light = torch.from_numpy(scene).permute(2, 0, 1)
    gains = torch.tensor([rng.uniform(1.4, 2.4), 1.0, rng.uniform(1.2, 2.2)]).float()[:, None, None]
    light = light * _exposure(light, rng) / gains
    light = _blur(light, sigma=rng.uniform(0.4, 0.9))
    raw = _expose(_mosaic(light), full_well=float(np.exp(rng.uniform(np.log(1500), np.log(20000)))), rng=rng)
    raw = (raw * _mosaic(gains.expand_as(light))).clamp(0, 1)
    return _tone(_demosaic(raw), contrast=rng.uniform(0, 0.5))


def _exposure(light: Tensor, rng: np.random.Generator) -> float:
    """Brings the brightest few percent near white, as an exposure meter does, more or less."""
    white = float(np.quantile(light[1].numpy(), 0.97))
    return rng.uniform(0.7, 1.1) / max(white, 1e-6)


def _blur(light: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of the optics; sigma in pixels, below 1."""
    offsets = torch.arange(-3, 4)
    taps = torch.exp(-(offsets**2) / (2 * sigma**2))
    taps = taps / taps.sum()
    x = F.pad(light[:, None], (3, 3, 3, 3), mode="replicate")
    return F.conv2d(F.conv2d(x, taps.view(1, 1, 7, 1)), taps.view(1, 1, 1, 7))[:, 0]


def _mosaic(planes: Tensor) -> Tensor:
    """[3, H, W] -> [H, W]: what lies under the colour filters of an RGGB sensor."""
    raw = planes[1].clone()
    raw[::2, ::2] = planes[0, ::2, ::2]
    raw[1::2, 1::2] = planes[2, 1::2, 1::2]
    return raw


def _expose(raw: Tensor, full_well: float, rng: np.random.Generator) -> Tensor:
    """Photon noise, read noise of three electrons, saturation and quantisation; 1 is a full well."""
    electrons = raw.clamp(0, 1) * full_well
    noise = torch.from_numpy(rng.standard_normal(raw.shape, dtype=np.float32))
    electrons = electrons + noise * (electrons + 3.0**2).sqrt()
    return (electrons / full_well * _WHITE_LEVEL).round().clamp(0, _WHITE_LEVEL) / _WHITE_LEVEL


def _demosaic(raw: Tensor) -> Tensor:
    """[H, W] of an RGGB sensor -> [3, H, W]."""
    padded = F.pad(raw[None, None], (2, 2, 2, 2), mode="reflect")  # reflection keeps the phase of the mosaic
    green, along_row, along_column, diagonal = F.conv2d(padded, _FILTERS)[0]
    rgb = raw.repeat(3, 1, 1)
    rgb[1, ::2, ::2], rgb[1, 1::2, 1::2] = green[::2, ::2], green[1::2, 1::2]
    for channel, row in ((0, 0), (2, 1)):  # red lies at (0, 0), blue at (1, 1)
        other = 1 - row
        rgb[channel, row::2, other::2] = along_row[row::2, other::2]
        rgb[channel, other::2, row::2] = along_column[other::2, row::2]
        rgb[channel, other::2, other::2] = diagonal[other::2, other::2]
    return rgb.clamp(0, 1)


def linear_light(pixels: Tensor) -> np.ndarray:
    """The scene that sRGB pixels show: uint8 [3, H, W] -> float32 [H, W, 3] in 0..1."""
    encoded = pixels.permute(1, 2, 0).float() / 255
    return torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).numpy()


def _tone(linear: Tensor, contrast: float) -> Tensor:
    """sRGB transfer function, then an S curve of the given strength; uint8 [3, H, W]."""
    encoded = torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)
    curved = encoded * encoded * (3 - 2 * encoded)
    return (torch.lerp(encoded, curved, contrast) * 255).round().to(torch.uint8)


def _jpeg(pixels: Tensor, quality: int, subsampling: int) -> bytes:
    """subsampling: Pillow's code, 0 for 4:4:4 and 2 for 4:2:0."""
    file = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
    image.save(file, "JPEG", quality=quality, subsampling=subsampling)
    return file.getvalue()
