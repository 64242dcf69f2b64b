"""The plain network as a PyTorch module, for what takes PyTorch programs: AOTInductor."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.models.folding import Block, Convolution, PlainDetector
from detector.models.periodicity import FLOOR, REFERENCE_BLOCKS
from detector.models.plain_periodicity import MAPS, PlainPeriodicity
from detector.models.pooling import mean_of_largest
from npr_kernels import periodicity as coherence


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
        self.whole = None if detector.whole is None else _PlainPeriodicity(detector.whole)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.float()
        x = pixels[:, :, : pixels.shape[2] // 2 * 2, : pixels.shape[3] // 2 * 2] if self.crop else pixels
        x = F.max_pool2d(F.relu(self.stem(x)), kernel_size=3, stride=2, padding=1)
        features = self.blocks(x)
        if self.share == 1:
            logits = self.classifier(features.mean(dim=(2, 3)))
        else:
            local_logits = self.classifier(features.flatten(2).transpose(1, 2)).squeeze(2)
            logits = mean_of_largest(local_logits, self.share)
        if self.whole is not None:
            logits = logits + self.whole(pixels)
        return logits, logits.sigmoid()


class _PlainPeriodicity(nn.Module):
    """Pixels [N, 3, H, W] of at least LEAST_SIDE -> logits [N, 1]."""

    def __init__(self, whole: PlainPeriodicity) -> None:
        super().__init__()
        self.differences, self.waves = _constant(whole.differences), _constant(whole.waves.flatten(1).T)
        self.averages, self.weight = _constant(whole.averages), _constant(whole.weight[:, None])
        self.bias = _constant(whole.bias)

    def forward(self, pixels: Tensor) -> Tensor:
        tile, block = coherence.TILE, coherence.BLOCK
        strength = F.conv2d(pixels, self.differences, groups=3).abs()
        rows, columns = (side // tile * tile for side in strength.shape[2:])
        strength = strength[:, :, :rows, :columns]
        mean = F.avg_pool2d(strength, tile).repeat_interleave(tile, 2).repeat_interleave(tile, 3)
        fine = (strength + coherence.FLOOR * (mean + coherence.OFFSET)).log()
        coarse = (strength + coherence.COARSE).log()
        edges = (strength > coherence.EDGE).float()
        maps = torch.cat([fine, coarse, edges], dim=1).reshape(-1, rows // block, block, columns // block, block)
        # A product of matrices: compiled, the convolution's result is read in the wrong order.
        spectra = maps.transpose(2, 3).reshape(-1, rows * columns // block**2, block**2) @ self.waves
        blocks = spectra.shape[1]
        together = spectra.sum(dim=1).square().unflatten(1, (2, -1)).sum(dim=1)
        energy = spectra.square().sum(dim=1).unflatten(1, (2, -1)).sum(dim=1)
        flat = energy <= coherence.ROUNDING * blocks
        found = torch.where(flat, 1.0, together / energy.clamp(min=1e-30))
        share = (REFERENCE_BLOCKS - 1) / torch.sym_max(blocks - 1, REFERENCE_BLOCKS - 1)
        logarithms = ((1 + (found - 1) * share) @ self.averages + FLOOR).log()
        return logarithms.view(-1, MAPS * self.averages.shape[1]) @ self.weight + self.bias


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
