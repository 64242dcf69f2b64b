"""What the whole image says as plain convolutions and sums, for engines that know nothing of coherence.

Pixels go through a convolution of the differences, absolute values, a mean over tiles, logarithms, and a convolution
with the waves of blocks' Fourier transforms; what is left are sums, one division, and a linear map between logarithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.models.periodicity import AVERAGES, GROUPS, Periodicity
from npr_kernels.periodicity import BLOCK, DIFFERENCES, SCALES, TILE

LEAST_SIDE = TILE + 2
"""Of images that hold a tile. For smaller ones there would be nothing to sum."""


@dataclass(frozen=True)
class PlainPeriodicity:
    """The parts, all float64.

    Attributes:
        differences: [3 * D, 1, 3, 3], of a convolution in three groups, a channel each, without padding.
        waves: [2 * F, 1, 8, 8], of a convolution of stride 8 on every map by itself: F cosines, then F sines.
        averages: [F, groups], from frequencies to the groups' means.
        weight: [scales * 3 * D * groups], of the logarithms.
        bias: [].
    """

    differences: Tensor
    waves: Tensor
    averages: Tensor
    weight: Tensor
    bias: Tensor


def plain_periodicity(model: Periodicity) -> PlainPeriodicity:
    """The same logit by other means."""
    differences = torch.tensor(list(DIFFERENCES.values()), dtype=torch.float64)
    frequencies = [frequency for group in GROUPS.values() for frequency in group]
    averages = torch.stack([AVERAGES[row, column] for row, column in frequencies]).double()
    at = torch.arange(BLOCK, dtype=torch.float64)
    angles = torch.stack([2 * math.pi / BLOCK * (down * at[:, None] + across * at) for down, across in frequencies])
    weight = model.weight.detach().double().cpu().transpose(1, 2)  # scale, channel, difference, group
    return PlainPeriodicity(
        differences[:, None].repeat(3, 1, 1, 1),
        torch.cat([angles.cos(), angles.sin()])[:, None],
        averages,
        weight.flatten(),
        model.bias.detach().double().cpu(),
    )


MAPS = len(SCALES) * 3 * len(DIFFERENCES)
"""Of each image, after the logarithms: scale, channel, difference."""
