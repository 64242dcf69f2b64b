"""Detectors as inference runs them on CUDA devices: batch norms folded in, cuDNN's fused convolutions, CUDA graphs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from detector.models.detector import Detector
from detector.models.graphs import Graphs
from detector.models.prepared import PreparedDetector
from npr_kernels.bottleneck import FoldedBottleneck
from npr_kernels.cudnn import CudnnBottleneck

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Of the maps, by precision."""


class CudaDetector(PreparedDetector):
    """A detector whose residual blocks are :class:`npr_kernels.cudnn.CudnnBottleneck`, and whose network is captured in
    a CUDA graph for each shape that comes again. It has not run on a GPU yet.

    In float32, products are float32's, not TF32's. In bfloat16 the stem is the fused one with 16-bit results; sums, and
    all from the mean of the features on, are float32's. What the whole image adds is computed beside the graph, in
    float32. For one shape of batch, results repeat bit for bit: cuDNN is asked for deterministic algorithms, and to
    choose them without measuring.

    Args:
        model: in evaluation mode, float32, with residual blocks. Its stem and classifier are shared, its blocks copied.
        precision: "float32" or "bfloat16".
        graphs: what captures the network, :class:`detector.models.graphs.Graphs` but in tests.
        fused: whether to ask cuDNN for its fused convolutions. Where it has none for a shape, they are not asked for
            again, which is said in a RuntimeWarning.
    """

    def __init__(
        self,
        model: Detector,
        precision: str = "float32",
        *,
        graphs: Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]] = Graphs,
        fused: bool = True,
    ) -> None:
        super().__init__(model)
        self.precision = precision
        self._dtype = DTYPES[precision]
        self._folded = [FoldedBottleneck.of(block) for block in model.blocks]
        self._fuse(fused)
        self._network = graphs(self._logits)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, C, h, w] in the precision's dtype and channels_last."""
        lower = self._dtype != torch.float32
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            with torch.autocast(images.device.type, torch.bfloat16, enabled=lower):
                x = self.model.stem(images)
            x = x.to(self._dtype).contiguous(memory_format=torch.channels_last)
            try:
                return self._through(x)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if not self._fused or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
                    raise
                warnings.warn(f"cuDNN's fused convolutions are not used: {error}", RuntimeWarning, stacklevel=2)
                self._fuse(False)
                return self._through(x)

    def forward(self, images: Tensor) -> Tensor:
        with torch.inference_mode():
            logits, whole = self._network(images), self.whole(images)
        return logits.clone() if whole is None else logits + whole

    def pool(self, features: Tensor) -> Tensor:
        if self.pooling == "mean":
            return self.classify(features.mean(dim=(2, 3), dtype=self.classifier.weight.dtype))
        return super().pool(features)

    def local_logits(self, features: Tensor) -> Tensor:
        return super().local_logits(features.to(self.classifier.weight.dtype))

    def _logits(self, images: Tensor) -> Tensor:
        return self.pool(self.features(images))

    def _through(self, x: Tensor) -> Tensor:
        for block in self._blocks:
            x = block(x)
        return x

    def _fuse(self, fused: bool) -> None:
        device = next(self.model.parameters()).device
        self._fused = fused
        self._blocks = [CudnnBottleneck.of(block, device, self._dtype, fused=fused) for block in self._folded]
