"""The up-sampling operators that generators are built from, each x2 on features [N, C, h, w]."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Upsampler = Literal["nearest", "bilinear", "bicubic", "fir", "lowpass", "transposed", "unpool", "pixelshuffle"]
"""Names of the operators:

- nearest: every value repeated 2x2
- bilinear, bicubic: interpolation at half-pixel centres
- fir: zeros between the values, then the binomial blur [1 3 3 1] (StyleGAN, StyleGAN2)
- lowpass: zeros between the values, then a 12-tap Kaiser-windowed sinc (alias-free, as in StyleGAN3)
- transposed: zeros between the values; with the convolution that follows, a transposed convolution
- unpool: every value put where its 2x2 cell had its maximum, zeros elsewhere (max-un-pooling, SegNet)
- pixelshuffle: the convolution itself makes four times the channels, rearranged to space (ESPCN)
"""

UPSAMPLERS: tuple[Upsampler, ...] = get_args(Upsampler)

_BINOMIAL = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4  # taps sum to 2 per axis: the zeros take three quarters of the mean


def _windowed_sinc(taps: int = 12, beta: float = 6.0) -> Tensor:
    """Half-band low-pass of an even number of taps, centred between samples, that sums to 2."""
    position = np.arange(taps) - (taps - 1) / 2
    kernel = np.sinc(position / 2) * np.kaiser(taps, beta)
    return torch.from_numpy(2 * kernel / kernel.sum()).float()


_SINC = _windowed_sinc()


def upsample(z: Tensor, kind: Upsampler, switches: Tensor) -> Tensor:
    """Features at twice the size.

    Args:
        z: floating point [N, C, h, w].
        kind: the operator; pixelshuffle is part of the convolution after it and leaves z as it is here.
        switches: int64 [N, h, w] in 0..3, the phase (row-major) of each cell's maximum; only unpool looks at it.

    Returns:
        [N, C, 2h, 2w], or z itself for pixelshuffle.
    """
    match kind:
        case "nearest":
            return F.interpolate(z, scale_factor=2, mode="nearest")
        case "bilinear" | "bicubic":
            return F.interpolate(z, scale_factor=2, mode=kind, align_corners=False)
        case "fir":
            return _blur(_place(z, torch.zeros_like(switches)), _BINOMIAL)
        case "lowpass":
            return _blur(_place(z, torch.zeros_like(switches)), _SINC)
        case "transposed":
            return _place(z, torch.zeros_like(switches))
        case "unpool":
            return _place(z, switches)
        case "pixelshuffle":
            return z


def _place(z: Tensor, phases: Tensor) -> Tensor:
    """Each value at the given phase of its 2x2 cell, zeros at the other three."""
    mask = F.one_hot(phases, 4).permute(0, 3, 1, 2).to(z.dtype)  # [N, 4, h, w]
    cells = z[:, :, None] * mask[:, None]  # [N, C, 4, h, w]
    return F.pixel_shuffle(cells.flatten(1, 2), 2)


def _blur(x: Tensor, taps: Tensor) -> Tensor:
    """Separable convolution with an even number of taps, such that phase 0 of a cell lies left of the filter's centre.

    Zero-stuffed input has its values at even positions; half a pixel of shift centres the result on the cells.
    """
    n, channels = len(taps), x.shape[1]
    taps = taps.to(x.dtype)
    x = F.pad(x, (n // 2, n // 2 - 1, n // 2, n // 2 - 1))
    x = F.conv2d(x, taps.view(1, 1, n, 1).expand(channels, 1, n, 1), groups=channels)
    return F.conv2d(x, taps.view(1, 1, 1, n).expand(channels, 1, 1, n), groups=channels)
