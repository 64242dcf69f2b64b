"""The residuals that a first convolution can read, and what differs between them. csrc/npr.h is the twin in C++.

A residual consists of maps, each made of all channels of the image: the weight of its convolution has the images'
channels once for each map, in the order of the maps. With padding 1 and the stride that steps from cell to cell, a 3x3
kernel has one output for each 2x2 cell on every map, so maps of different sizes add up.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Map:
    """What one channel of the weight reads of one channel of the image.

    Attributes:
        step: positions of the map from cell to cell; the map is as large as the image if 2, half as large if 1.
        positions: of the flattened 3x3 kernel that do not always meet zeros, a tap each.
        largest: magnitude of the integers that uint8 images give.
        gain: what multiplies these integers.
    """

    step: int
    positions: tuple[int, ...]
    largest: int
    gain: float

    @property
    def taps(self) -> int:
        """Taps of a channel."""
        return len(self.positions)


NPR = Map(step=2, positions=(0, 1, 2, 3, 5, 6, 7, 8), largest=255, gain=1.0)
HAAR = Map(step=1, positions=(0, 1, 2, 3, 4, 5, 6, 7, 8), largest=510, gain=0.5)

RESIDUALS: dict[str, tuple[Map, ...]] = {"npr": (NPR,), "haar": (HAAR,), "npr+haar": (NPR, HAAR)}


def taps(residual: str) -> int:
    """Taps of each channel of the image."""
    return sum(each.taps for each in RESIDUALS[residual])


def default_stride(residual: str) -> int:
    """The stride from cell to cell. Strides count positions of the smallest map: pixels for "npr", cells otherwise."""
    return min(each.step for each in RESIDUALS[residual])
