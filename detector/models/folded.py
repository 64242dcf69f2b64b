"""Detectors as inference runs them on the CPU: batch norms folded in, residual blocks fused."""

from __future__ import annotations

import math
import threading

import torch
from torch import Tensor

from detector.models.detector import Detector
from detector.models.on_cuda import CudaDetector
from detector.models.prepared import PreparedDetector
from detector.verdicts import PRECISIONS
from npr_kernels.bottleneck import FoldedBottleneck

CHUNK_PIXELS = 2**16
"""Of the images that go through the blocks together, for each thread: maps of so few stay in the cache."""


class _Maps(threading.local):
    """Two maps that a thread keeps from call to call; blocks read one and write the other."""

    def __init__(self) -> None:
        self._memory = [torch.empty(0, dtype=torch.uint8), torch.empty(0, dtype=torch.uint8)]

    def take(self, which: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        """Of the shape [N, C, H, W], in channels_last."""
        size = math.prod(shape) * dtype.itemsize
        if self._memory[which].numel() < size:
            self._memory[which] = torch.empty(size, dtype=torch.uint8)
        batch, channels, rows, columns = shape
        return self._memory[which][:size].view(dtype).view(batch, rows, columns, channels).permute(0, 3, 1, 2)


class FoldedDetector(PreparedDetector):
    """A detector whose residual blocks are :class:`npr_kernels.bottleneck.FoldedBottleneck`: the same logits but for
    rounding, without gradients. An image's features do not depend, bit for bit, on those that come with it or on the
    number of threads.

    Args:
        model: in evaluation mode, float32, on the CPU. Its stem and classifier are shared, its blocks are copied.
    """

    precision = "float32"
    chunk_pixels = CHUNK_PIXELS

    def __init__(self, model: Detector) -> None:
        super().__init__(model)
        self._blocks = [FoldedBottleneck.of(block) for block in model.blocks]
        self._maps = _Maps()

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        x = self.model.stem(images)
        for block in self._blocks:
            x = block(x)
        return x

    def forward(self, images: Tensor) -> Tensor:
        """As :meth:`Detector.forward`, a few images at a time, whose maps lie in memory that is used again."""
        pixels = images.shape[2] * images.shape[3]
        chunk = max(1, self.chunk_pixels * torch.get_num_threads() // max(pixels, 1))
        with torch.inference_mode():  # what the buffers are always written under
            logits = torch.cat([self.pool(self._kept_features(part)) for part in images.split(chunk)])
            whole = self.whole(images)
        # A copy, and a tensor like any other.
        return logits.clone() if whole is None else logits + whole

    def _kept_features(self, images: Tensor) -> Tensor:
        """As features(), in a buffer of this thread's."""
        x = self.model.stem(images)
        for number, block in enumerate(self._blocks):
            x = block(x, self._maps.take(number % 2, block.shape(x)))
        return x


def fold_detector(model: Detector, precision: str | None) -> Detector:
    """See :meth:`Detector.for_inference`."""
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if isinstance(model, PreparedDetector):
        return model if precision in (None, model.precision) else fold_detector(model.model, precision)
    if precision == "int8":
        from detector.models.quantised import quantise_detector  # which builds on this module

        return quantise_detector(model)
    if model.training:
        raise ValueError("a model in training mode cannot be folded for inference: call eval() first")
    weight = next(model.parameters())
    covered = weight.dtype == torch.float32 and any(True for _ in model.blocks)
    if covered and weight.device.type == "cuda":
        return CudaDetector(model, precision or "float32")
    if precision == "bfloat16":
        raise ValueError(
            "bfloat16 takes a detector with residual blocks in float32 on a CUDA device, got "
            f"{type(model).__name__} in {str(weight.dtype).removeprefix('torch.')} on {weight.device}"
        )
    return FoldedDetector(model) if covered and weight.device.type == "cpu" else model
