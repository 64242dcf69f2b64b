"""Signs that an image was resized: a period of its second differences that neither cells nor blocks have.

An interpolated pixel is a weighted mean of others, and how much the mean smooths depends on where the pixel lies
between them. That place repeats with the ratio of the two grids, and with it the size of the second difference:
Gallagher, "Detection of Linear and Cubic Interpolation in JPEG Compressed Images", CRV 2005; Mahdian and Saic, "Blind
Authentication Using Periodic Properties of Interpolation", IEEE TIFS 3(3), 2008. So their mean over the lines of an
image has a peak in its spectrum, at the frequency 1 / factor or what that is aliased to.

Frequencies of k / 8 are left out. They are the generators' own, which up-sample by 2, 4 and 8 and whose trace is what a
detector is to find, and those of JPEG's blocks; so are those of factors such as 2, 4 and 1/2, which are not seen here.
So are low ones, which pictures have themselves.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIDE = 512
"""Pixels a side of the part that is looked at: the centre, or all there is."""

SMALLEST = 128
"""Pixels along the shorter side of the smallest image that is looked at: below, a peak has too few neighbours."""

STRENGTH = 25.0
"""From which on a peak is a sign. docs/choices.md tells how many photographs and which resized ones have one."""

_PERIOD = 8

# Bins to either side of k / 8 that such a peak spreads to, with a Hann window.
_GUARD = 2

# The first multiple of 1 / 8 and its surroundings are the pictures' own.
_LOWEST = 0.14

# Bins to either side whose median a peak is measured by.
_AROUND = 10

# Of the power, far below that of any image's, so that one of a single colour has no peaks.
_LEAST = 1e-9

# Differences whose product, of as many factors of at most 1 + 4 * 255, a float64 holds: one logarithm for all.
_FACTORS = 64


class Peak(NamedTuple):
    """The strongest of the periods.

    Attributes:
        strength: power by the median of the neighbouring frequencies'; about 10 for images that were not resized.
        period: in pixels, 2 to 7.
    """

    strength: float
    period: float


def find_period(pixels: NDArray[np.uint8]) -> Peak | None:
    """The strongest period along rows or columns.

    Args:
        pixels: uint8 [H, W, 3], RGB.

    Returns:
        None for images smaller than SMALLEST.
    """
    if min(pixels.shape[:2]) < SMALLEST:
        return None
    luma = _luma(_centre(pixels))
    return max(_peak(_profile(luma)), _peak(_profile(luma.T)))


def _centre(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At most SIDE pixels a side, a whole number of periods."""
    height, width = (min(side // _PERIOD * _PERIOD, SIDE) for side in pixels.shape[:2])
    top, left = ((side - kept) // 2 for side, kept in zip(pixels.shape[:2], (height, width), strict=True))
    return pixels[top : top + height, left : left + width]


def _luma(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """In whole grey levels, 0..255."""
    red, green, blue = (pixels[..., channel].astype(np.uint16) for channel in range(3))
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.int16)


def _profile(luma: NDArray[np.int16]) -> NDArray[np.float64]:
    """[H, W] -> [W - 2]: how large the second differences along the rows are, in each column.

    As the mean of log(1 + d), so that an edge does not outweigh the many small differences that show the period.
    """
    luma = np.ascontiguousarray(luma)  # in another layout, products would round otherwise
    second = luma[:, :-2] + luma[:, 2:] - 2 * luma[:, 1:-1]
    factors = np.abs(second) + 1.0
    products = np.multiply.reduceat(factors, np.arange(0, len(factors), _FACTORS), axis=0)
    return np.log(products).sum(axis=0) / len(factors)


def _peak(profile: NDArray[np.float64]) -> Peak:
    number = len(profile)
    power = np.abs(np.fft.rfft((profile - profile.mean()) * np.hanning(number))) ** 2 + _LEAST
    frequency = np.arange(len(power)) / number
    around = np.lib.stride_tricks.sliding_window_view(np.pad(power, _AROUND, mode="reflect"), 2 * _AROUND + 1)
    strength = power / np.median(around, axis=1)
    own = np.rint(frequency * _PERIOD) / _PERIOD
    strength[(np.abs(frequency - own) * number <= _GUARD) | (frequency < _LOWEST)] = 0
    best = int(strength.argmax())
    return Peak(float(strength[best]), float(1 / frequency[best]) if best else 0.0)
