"""How much of an image has any texture at all: what the detectors read are differences within cells of 2x2 pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 2**14
"""About so many cells are looked at, evenly over the image."""


def textured_share(pixels: NDArray[np.uint8]) -> float:
    """The share of cells whose four pixels are not all of one colour, 0..1: 0 for an image of one colour.

    Args:
        pixels: uint8 [H, W, 3], H and W at least 2. A last row or column without a partner is not looked at.
    """
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    step = 2 * max(1, round((height * width / 4 / MAX_CELLS) ** 0.5))
    differences = np.uint8(0)
    for channel in range(3):  # of each by itself, since inner loops over three of them take four times as long
        plane = pixels[:height, :width, channel]
        first, *others = (plane[row::step, column::step] for row in (0, 1) for column in (0, 1))
        for other in others:
            differences = differences | (first ^ other)
    return float(np.mean(differences != 0))
