"""The plain network as a PyTorch module, for what takes PyTorch programs: AOTInductor."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detector.models.folding import Block, Convolution, PlainDetector
from detector.models.pooling import mean_of_largest


class PlainNetwork(nn.Module):
    """A folded detector in float32, of convolutions with biases alone.

    Shape: uint8 [N, 3, H, W], H and W >= 2 -> logits and scores, float32 [N, 1] each.
    """

    def __init__(self, detector: PlainDetector) -> None:
        super().__init__()
        self.crop = detector.stem.after > 0
        self.stem = _PlainConv(detector.stem)
        self.blocks = nn.Sequential(*map(_PlainBlock, detector.blocks.values()))
        self.classifier = nn.Linear(len(detector.weight), 1)
        self.classifier.weight = _constant(detector.weight[None])
        self.classifier.bias = _constant(detector.bias[None])
        self.share = detector.share

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.crop:
            images = images[:, :, : images.shape[2] // 2 * 2, : images.shape[3] // 2 * 2]
        x = F.max_pool2d(F.relu(self.stem(images.float())), kernel_size=3, stride=2, padding=1)
        features = self.blocks(x)
        if self.share == 1:
            logits = self.classifier(features.mean(dim=(2, 3)))
        else:
            local_logits = self.classifier(features.flatten(2).transpose(1, 2)).squeeze(2)
            logits = mean_of_largest(local_logits, self.share)
        return logits, logits.sigmoid()


class _PlainConv(nn.Module):
    def __init__(self, conv: Convolution) -> None:
        super().__init__()
        self.weight, self.bias = _constant(conv.weight), _constant(conv.bias)
        self.stride, self.before, self.after = conv.stride, conv.before, conv.after

    def forward(self, x: Tensor) -> Tensor:
        if self.before != self.after:
            x = F.pad(x, (self.before, self.after, self.before, self.after))
        padding = self.before if self.before == self.after else 0
        return F.conv2d(x, self.weight, self.bias, self.stride, padding)


class _PlainBlock(nn.Module):
    def __init__(self, block: Block) -> None:
        super().__init__()
        self.reduce, self.spatial, self.expand = map(_PlainConv, (block.reduce, block.spatial, block.expand))
        self.shortcut = nn.Identity() if block.shortcut is None else _PlainConv(block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.spatial(F.relu(self.reduce(x))))
        return F.relu(self.expand(y) + self.shortcut(x))


def _constant(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.float(), requires_grad=False)
