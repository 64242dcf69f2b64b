"""What the fused ops replace, as PyTorch users write it and as the original NPR code does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from npr_kernels import IMAGENET_MEAN, IMAGENET_STD, NPR_SCALE

MEAN = torch.tensor(IMAGENET_MEAN).view(-1, 1, 1)
STD = torch.tensor(IMAGENET_STD).view(-1, 1, 1)


def conv2d(images: Tensor, weight: Tensor) -> Tensor:
    """Normalise, subtract each 2x2 cell's top-left pixel by down- and up-sampling, convolve."""
    x = (images.float() / 255 - MEAN) / STD
    half = F.interpolate(x, scale_factor=0.5, mode="nearest")
    residual = x - F.interpolate(half, scale_factor=2.0, mode="nearest")
    return F.conv2d(residual * NPR_SCALE, weight, stride=2, padding=1)
