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

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

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


class Peak(NamedTuple):
    """The strongest of the periods.

    Attributes:
        strength: power by the median of the neighbouring frequencies'; about 10 for images that were not resized.
        period: in pixels, 2 to 7.
    """

    strength: float
    period: float


def find_period(image: Tensor) -> Peak | None:
    """The strongest period along rows or columns.

    Args:
        image: uint8 [3, H, W], RGB.

    Returns:
        None for images smaller than SMALLEST.
    """
    if min(image.shape[1:]) < SMALLEST:
        return None
    from npr_kernels.resampling import profiles  # with torch, which who only reads reasons does without

    across, down = profiles(_centre(image)[None])
    return max(_peak(across[0].numpy()), _peak(down[0].numpy()))


def _centre(image: Tensor) -> Tensor:
    """At most SIDE pixels a side, a whole number of periods."""
    for dim in (1, 2):
        side = image.shape[dim]
        kept = min(side // _PERIOD * _PERIOD, SIDE)
        image = image.narrow(dim, (side - kept) // 2, kept)
    return image


def _peak(profile: NDArray[np.float64]) -> Peak:
    window, frequency, excluded = _bins(len(profile))
    spectrum = np.fft.rfft((profile - profile.mean()) * window)
    power = spectrum.real**2 + spectrum.imag**2 + _LEAST
    reflected = np.concatenate([power[_AROUND:0:-1], power, power[-2 : -_AROUND - 2 : -1]])
    around = np.lib.stride_tricks.sliding_window_view(reflected, 2 * _AROUND + 1)
    strength = power / np.partition(around, _AROUND, axis=1)[:, _AROUND]  # the median
    strength[excluded] = 0
    best = int(strength.argmax())
    return Peak(float(strength[best]), float(1 / frequency[best]) if best else 0.0)


@functools.lru_cache(maxsize=SIDE)
def _bins(number: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Of a profile of so many values: a Hann window, and of each bin of the spectrum its frequency and whether it is
    left out."""
    frequency = np.arange(number // 2 + 1) / number
    own = np.rint(frequency * _PERIOD) / _PERIOD
    excluded = (np.abs(frequency - own) * number <= _GUARD) | (frequency < _LOWEST)
    return np.hanning(number), frequency, excluded
