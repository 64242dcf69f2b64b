"""The parts of ResNet-50 that the detectors are made of (He et al., CVPR 2016), with the original's parameter names."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from npr_kernels.trained_bottleneck import covers, trained_bottleneck


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3 (with the block's stride), 1x1 expand by 4, added to the input and rectified.

    Shape: [N, in_channels, H, W] -> [N, 4 width, ceil(H / stride), ceil(W / stride)].
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        if self.training and covers(self, x):
            return trained_bottleneck(self, x)
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return F.relu(y, inplace=True)


def bottleneck_layer(in_channels: int, width: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """A ResNet layer: `blocks` bottlenecks, the first of which changes resolution and channels."""
    out_channels = width * Bottleneck.expansion
    rest = [Bottleneck(out_channels, width) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(in_channels, width, stride), *rest)


def start_as_identity(model: nn.Module) -> None:
    """Makes every bottleneck the identity, rectified, at first: what lets a deep ResNet learn from random weights.

    Source: Goyal et al., "Accurate, large minibatch SGD" (arXiv 1706.02677), Section 5.1.
    """
    for module in model.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.bn3.weight)


def initialise(model: nn.Module) -> None:
    """Initial weights of both papers: Kaiming-normal convolutions (fan out), batch norms that do nothing.

    Linear layers keep PyTorch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
