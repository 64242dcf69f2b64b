"""A first convolution that reads luma: its weights of red, green and blue are in a fixed proportion.

Compression shrinks the colour differences of a picture and throws most of them away, so what a detector learns from
them is soon gone; from luma alone it cannot learn it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue, as in JPEG (ITU-R BT.601)."""


class Luma(nn.Module):
    """From one plane for each map of the residual to its three channels: [O, M, kh, kw] -> [O, 3 M, kh, kw]."""

    proportions: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("proportions", torch.tensor(LUMA), persistent=False)

    def forward(self, planes: Tensor) -> Tensor:
        return (planes[:, :, None] * self.proportions.view(3, 1, 1)).flatten(1, 2)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The planes whose three channels are nearest to the weight's, in the least squares' sense."""
        channels = weight.unflatten(1, (-1, 3))
        return (channels * self.proportions.view(3, 1, 1)).sum(dim=2) / self.proportions.square().sum()


def read_luma(conv: nn.Conv2d) -> None:
    """Holds the convolution's weight to LUMA's proportions from now on, starting from the nearest such weight.

    Its state dict then has `parametrizations.weight.original`, the planes, in the place of `weight`. The proportions
    are those of the weights; normalisation divides by deviations of 0.224 to 0.229, so that on the image they are
    LUMA's to within 2 %.

    Args:
        conv: changed in place; of three channels for each map of its residual.
    """
    parametrize.register_parametrization(conv, "weight", Luma())
