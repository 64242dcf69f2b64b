"""Facts that pixels show, quick to measure on a bounded part of an image.

A comb is a pattern that repeats every so many pixels. Of period 2 and 4 it comes from up-sampling, demosaicing or
scanners, of period 8 from the blocks of JPEG or from up-sampling by 8, as decoders of latent diffusion do. It is a peak
in the spectrum of what a low-pass leaves; that is half-wave rectified before, so that a pattern of the residual's
strength shows as one of its mean does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE = 256
"""Pixels a side of the part that combs and noise are measured on: the centre, or all there is."""

SMALLEST = 32
"""Pixels a side of the smallest image that they are measured on."""

PERIODS = (2, 4, 8)

_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)

# Mean of the middle half of the absolute values of a normal variable of standard deviation 1.
_MIDMEAN = 0.6933

# Bins around a peak: those up to _GUARD belong to it, as the window spreads it, those up to _AROUND are its neighbours.
_GUARD, _AROUND = 1, 3

# Of the power, far below that of any residual, so that a flat image has no peaks.
_LEAST = 1e-3


@dataclass(frozen=True)
class PixelFacts:
    """Of one image. None where it is smaller than SMALLEST.

    Attributes:
        comb_2, comb_4, comb_8: the power at the frequencies of that period, which no shorter one has, by that of their
            neighbours, in decibels; about 0 without a comb.
        noise: standard deviation of the noise in luma, in grey levels, from the diagonal details of 2x2 cells, as
            Donoho and Johnstone, Biometrika 81, 1994, with the mean of the middle half in place of the median, which
            whole grey levels would make coarse.
        saturation: mean of (max - min) / max over the channels, 0..1.
        brightness: mean luma, in grey levels.
        contrast: standard deviation of luma, in grey levels.
        clipped: share of the samples that are 0 or 255.
        chroma_detail: energy of the horizontal and vertical differences in chroma by that in luma; subsampling of
            chroma lowers it. None where luma is constant.
    """

    comb_2: float | None
    comb_4: float | None
    comb_8: float | None
    noise: float | None
    saturation: float
    brightness: float
    contrast: float
    clipped: float
    chroma_detail: float | None


def measure_pixels(pixels: NDArray[np.uint8]) -> PixelFacts:
    """The facts of the image's centre.

    Args:
        pixels: uint8 [H, W, 3], RGB.
    """
    part = centre(pixels)
    colours = part.astype(np.float32)
    luma = colours @ _LUMA
    red, green, blue = part[..., 0], part[..., 1], part[..., 2]
    largest = np.maximum(np.maximum(red, green), blue)
    spread = largest - np.minimum(np.minimum(red, green), blue)
    large_enough = min(part.shape[:2]) >= SMALLEST
    combs = _combs(luma) if large_enough else [None] * len(PERIODS)
    return PixelFacts(
        comb_2=combs[0],
        comb_4=combs[1],
        comb_8=combs[2],
        noise=_noise(luma) if large_enough else None,
        saturation=float(np.mean(spread.astype(np.float32) / np.maximum(largest, 1))),
        brightness=float(luma.mean()),
        contrast=float(luma.std()),
        clipped=float(np.mean((part == 0) | (part == 255))),
        chroma_detail=_chroma_detail(colours, luma),
    )


def centre(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The centre, SIDE pixels a side at most; sides that reach SMALLEST are whole numbers of eight pixels."""
    height, width = (min(side, SIDE) if side < SMALLEST else min(side // 8 * 8, SIDE) for side in pixels.shape[:2])
    top, left = ((side - kept) // 2 for side, kept in zip(pixels.shape[:2], (height, width), strict=True))
    return pixels[top : top + height, left : left + width]


def _combs(luma: NDArray[np.float32]) -> Sequence[float | None]:
    """One for each of PERIODS."""
    residual = np.maximum(luma - _smoothed(luma), 0)
    window = np.hanning(luma.shape[0])[:, None] * np.hanning(luma.shape[1])
    transform = np.fft.fft2((residual - residual.mean()) * window.astype(np.float32))
    power = np.abs(transform) ** 2 + _LEAST
    return [float(10 * np.log10(_peak(power, period))) for period in PERIODS]


def _smoothed(luma: NDArray[np.floating]) -> NDArray[np.floating]:
    """Mean over 3x3 pixels, borders repeated."""
    for axis in (0, 1):
        padded = np.pad(luma, [(1, 1) if i == axis else (0, 0) for i in (0, 1)], mode="edge")
        parts = [np.take(padded, range(i, i + luma.shape[axis]), axis=axis) for i in range(3)]
        luma = (parts[0] + parts[1] + parts[2]) / 3
    return luma


def _peak(power: NDArray[np.floating], period: int) -> float:
    """Mean over the period's frequencies of the power there by that of their neighbours."""
    height, width = power.shape
    rows, columns = np.mgrid[:period, :period].reshape(2, -1)
    new = (rows % 2 == 1) | (columns % 2 == 1)  # multiples of 2 belong to half the period
    rows, columns = rows[new] * height // period, columns[new] * width // period
    offsets = np.arange(-_AROUND, _AROUND + 1)
    down, right = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    around = power[(rows[:, None] + down) % height, (columns[:, None] + right) % width]
    outside = np.maximum(np.abs(down), np.abs(right)) > _GUARD
    return float(np.mean(around[:, ~outside].mean(axis=1) / around[:, outside].mean(axis=1)))


def _noise(luma: NDArray[np.float32]) -> float:
    a, b, c, d = (luma[i : luma.shape[0] // 2 * 2 : 2, j : luma.shape[1] // 2 * 2 : 2] for i in (0, 1) for j in (0, 1))
    details = np.sort(np.abs(a - b - c + d), axis=None)
    return float(details[len(details) // 4 : -(len(details) // 4)].mean() / 2 / _MIDMEAN)


def _chroma_detail(colours: NDArray[np.float32], luma: NDArray[np.float32]) -> float | None:
    def energy(channel: NDArray[np.float32]) -> float:
        return float(sum(np.mean(np.square(np.diff(channel, axis=axis))) for axis in (0, 1) if channel.shape[axis] > 1))

    detail = energy(luma)
    chroma = energy(colours[..., 0] - luma) + energy(colours[..., 2] - luma)
    return chroma / detail if detail > 0 else None
