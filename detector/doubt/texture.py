"""How much of an image has any texture at all: what the detectors read are differences within cells of 2x2 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

MAX_CELLS = 2**14
"""About so many cells are looked at, evenly over the image."""


def textured_share(image: Tensor) -> float:
    """The share of cells whose four pixels are not all of one colour, 0..1: 0 for an image of one colour.

    Args:
        image: uint8 [3, H, W], H and W at least 2. A last row or column without a partner is not looked at.
    """
    from npr_kernels.texture import textured_cells  # with torch, which who only reads reasons does without

    rows, columns = (side // 2 for side in image.shape[1:])
    apart = max(1, round((rows * columns / MAX_CELLS) ** 0.5))
    looked_at = -(-rows // apart) * -(-columns // apart)
    return textured_cells(image[None], 2 * apart).item() / looked_at
