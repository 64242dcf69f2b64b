"""How the smoothness of an image varies from column to column and from row to row, which resizing makes periodic::

    across, down = profiles(images)     # uint8 [N, 3, H, W] -> float64 [N, W - 2] and [N, H - 2]

Of the luma l, in whole grey levels, second differences are taken along rows and along columns. Their size is averaged
on the logarithm's scale, so that an edge does not outweigh the many small differences that show a period::

    l(y, x)   = floor((77 R + 150 G + 29 B) / 256)
    across(x) = mean over y of log(1 + |l(y, x) - 2 l(y, x + 1) + l(y, x + 2)|)
    down(y)   = mean over x of log(1 + |l(y, x) - 2 l(y + 1, x) + l(y + 2, x)|)

An interpolated pixel is a weighted mean of others, and how much the mean smooths repeats with the ratio of the two
grids: Gallagher, "Detection of Linear and Cubic Interpolation in JPEG Compressed Images", CRV 2005.

On the CPU images go through the op ``npr::profiles``, csrc/cpu/resampling.cpp: the same bits for an image in any batch,
layout and number of threads. Everything else, and where the op is not there, runs on :func:`reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from npr_kernels import backends

LUMA = (77, 150, 29)
"""Red's, green's and blue's share of the luma, of 256: ITU-R BT.601."""

LEAST_SIDE = 3
"""Rows and columns of the smallest image that has second differences."""


def profiles(images: Tensor) -> tuple[Tensor, Tensor]:
    """The mean size of second differences, by column and by row.

    Args:
        images: uint8 [N, 3, H, W] of any strides, RGB, H and W at least LEAST_SIDE.

    Returns:
        Across, float64 [N, W - 2], and down, float64 [N, H - 2], 0 to log(511), right to 1e-12.

    Raises:
        TypeError, ValueError: images of another type or shape.

    Example:
        Between two pixels, bilinear interpolation puts their mean, whose second difference is none but for rounding.

        >>> import torch
        >>> from npr_kernels.resampling import profiles
        >>> image = torch.randint(0, 256, (1, 3, 64, 33), dtype=torch.uint8)
        >>> enlarged = torch.nn.functional.interpolate(image.float(), (64, 65), mode="bilinear", align_corners=True)
        >>> across, down = profiles(enlarged.to(torch.uint8))
        >>> (across[0, 1::2] > across[0, 0::2][:-1]).all()
        tensor(True)
    """
    _check(images)
    if backends.cpu_kernels_run(images.device):
        across, down = torch.ops.npr.profiles(images)
        return across, down
    return reference(images)


def reference(images: Tensor) -> tuple[Tensor, Tensor]:
    """The same in plain PyTorch, on any device: the specification."""
    _check(images)
    weight = torch.tensor(LUMA, dtype=torch.int32, device=images.device)[:, None, None]
    luma = (images.int() * weight).sum(dim=1) >> 8
    across, down = (
        (luma.narrow(dim, 0, size) - 2 * luma.narrow(dim, 1, size) + luma.narrow(dim, 2, size))
        .abs()
        .double()
        .log1p()
        .mean(dim=3 - dim)
        for dim, size in ((2, luma.shape[2] - 2), (1, luma.shape[1] - 2))
    )
    return across, down


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < LEAST_SIDE:
        raise ValueError(f"images must be [N, 3, H, W] with H and W of at least {LEAST_SIDE}, got {list(images.shape)}")
