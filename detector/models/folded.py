"""Detectors as inference runs them on the CPU: batch norms folded in, residual blocks fused."""

from __future__ import annotations

import math
import threading
from typing import Any

import torch
from torch import Tensor, nn

from detector.models.detector import Detector
from npr_kernels.bottleneck import FoldedBottleneck

CHUNK_PIXELS = 2**16
"""Of the images that go through the blocks together, for each thread: maps of so few stay in the cache."""


class _Maps(threading.local):
    """Two maps that a thread keeps from call to call; blocks read one and write the other."""

    def __init__(self) -> None:
        self._memory = [torch.empty(0), torch.empty(0)]

    def take(self, which: int, shape: tuple[int, int, int, int]) -> Tensor:
        """float32, of the shape, in channels_last."""
        size = math.prod(shape)
        if self._memory[which].numel() < size:
            self._memory[which] = torch.empty(size)
        batch, channels, rows, columns = shape
        return self._memory[which][:size].view(batch, rows, columns, channels).permute(0, 3, 1, 2)


class FoldedDetector(Detector):
    """A detector whose residual blocks are :class:`npr_kernels.bottleneck.FoldedBottleneck`: the same logits but for
    rounding, without gradients. An image's features do not depend, bit for bit, on those that come with it or on the
    number of threads.

    Args:
        model: in evaluation mode, float32, on the CPU. Its stem and classifier are shared, its blocks are copied.
    """

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model
        self.preprocessing, self.pooling = model.preprocessing, model.pooling
        self.threshold, self.calibration, self.recipe = model.threshold, model.calibration, model.recipe
        self._blocks = [FoldedBottleneck.of(block) for block in model.blocks]
        self._maps = _Maps()
        self.eval()

    @property
    def architecture(self) -> dict[str, Any]:
        return self.model.architecture

    @property
    def classifier(self) -> nn.Linear:
        return self.model.classifier

    @property
    def feature_stride(self) -> int:
        return self.model.feature_stride

    @property
    def feature_reach(self) -> int:
        return self.model.feature_reach

    @property
    def tile_alignment(self) -> int:
        return self.model.tile_alignment

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        x = self.model.stem(images)
        for block in self._blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """As :meth:`Detector.forward`, a few images at a time, whose maps lie in memory that is used again."""
        pixels = images.shape[2] * images.shape[3]
        chunk = max(1, CHUNK_PIXELS * torch.get_num_threads() // max(pixels, 1))
        with torch.inference_mode():  # what the buffers are always written under
            logits = [self.pool(self._kept_features(part)) for part in images.split(chunk)]
        return torch.cat(logits)  # a copy, and a tensor like any other

    def _kept_features(self, images: Tensor) -> Tensor:
        """As features(), in a buffer of this thread's."""
        x = self.model.stem(images)
        for number, block in enumerate(self._blocks):
            x = block(x, self._maps.take(number % 2, block.shape(x)))
        return x

    def classify(self, mean_features: Tensor) -> Tensor:
        return self.model.classify(mean_features)


def fold_detector(model: Detector) -> Detector:
    """See :meth:`Detector.for_inference`."""
    if isinstance(model, FoldedDetector):
        return model
    if model.training:
        raise ValueError("a model in training mode cannot be folded for inference: call eval() first")
    weight = next(model.parameters())
    covered = weight.device.type == "cpu" and weight.dtype == torch.float32 and any(True for _ in model.blocks)
    return FoldedDetector(model) if covered else model
