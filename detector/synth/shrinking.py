"""Smaller versions of photographs, for generators that make them large again."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FILTERS: dict[str, Image.Resampling] = {
    "box": Image.Resampling.BOX,
    "triangle": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters, from the shortest to the sharpest; all widen with the factor, so that nothing aliases."""


def shrink(image: Tensor, factor: int, kind: str) -> Tensor:
    """The image at a `factor`-th of its size.

    Args:
        image: uint8 [3, H, W]; H and W multiples of `factor`, so that cells and pixels stay aligned.
        factor: at least 1; 1 gives the image itself.
        kind: a name of FILTERS.

    Returns:
        uint8 [3, H / factor, W / factor]

    Raises:
        ValueError: a side is no multiple of the factor, or the filter is unknown.
    """
    height, width = image.shape[1:]
    if height % factor or width % factor:
        raise ValueError(f"image must have sides that are multiples of {factor}, got {width}x{height}")
    if kind not in FILTERS:
        raise ValueError(f"kind must be one of {', '.join(FILTERS)}, got {kind!r}")
    if factor == 1:
        return image
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    small = picture.resize((width // factor, height // factor), FILTERS[kind])
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).contiguous()
