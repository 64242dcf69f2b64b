"""The images that a network in plain PyTorch is fed with, checked and in the range 0..1."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_range(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images as numbers in 0..1.

    Args:
        images: uint8, or floating in [0, 1], [N, 3, H, W].
        dtype: of the result, floating.

    Raises:
        TypeError, ValueError: other types or shapes.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ValueError(f"images must be [N, 3, H, W] and not without pixels, got {list(images.shape)}")
    x = images.to(dtype)
    return x if images.is_floating_point() else x / 255
