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
    first, *others = (pixels[row:height:step, column:width:step] for row in (0, 1) for column in (0, 1))
    differences = np.bitwise_or.reduce([first ^ other for other in others])
    return float(np.mean((differences[..., 0] | differences[..., 1] | differences[..., 2]) != 0))
