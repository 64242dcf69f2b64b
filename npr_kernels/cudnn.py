"""A residual block of ResNet-50 for inference on CUDA devices: batch norms folded in, and each convolution with its
bias, its ReLU and the sum with the shortcut one call of cuDNN.

    block = CudnnBottleneck.of(FoldedBottleneck.of(layer), device, torch.bfloat16)
    y = block(x)                                # [N, C, H, W] in channels_last and the block's dtype, like y

Layer by layer, a block from 256 channels by 64 to 256 moves 36 maps of 64 channels through memory; so it moves 16. The
weights are in channels_last, which tensor cores read as it is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from npr_kernels.bottleneck import FoldedBottleneck


@dataclass(frozen=True)
class CudnnBottleneck:
    """relu(expand(relu(spatial(relu(reduce(x))))) + shortcut), as :class:`npr_kernels.bottleneck.FoldedBottleneck`.

    Attributes:
        weights, biases: as there, on the device and in the dtype of the maps.
        stride: of spatial and project.
        fused: whether cuDNN's convolutions with a ReLU are called, which are there on CUDA devices alone; else
            PyTorch's convolutions, sums and ReLUs, which round the map between them to its dtype.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    stride: int
    fused: bool

    @classmethod
    def of(
        cls, block: FoldedBottleneck, device: torch.device | str, dtype: torch.dtype, *, fused: bool = True
    ) -> CudnnBottleneck:
        weights = tuple(
            weight.to(device, dtype).contiguous(memory_format=torch.channels_last) for weight in block.weights
        )
        return cls(weights, tuple(bias.to(device, dtype) for bias in block.biases), block.stride, fused)

    def __call__(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)].

        Raises:
            RuntimeError: cuDNN has no such fused convolution.
        """
        reduce, spatial, expand = self.weights[:3]
        middle = self._relu_of(self._relu_of(x, reduce, self.biases[0], 1), spatial, self.biases[1], self.stride)
        shortcut = x if len(self.weights) == 3 else F.conv2d(x, self.weights[3], None, self.stride)
        if not self.fused:
            return F.relu(F.conv2d(middle, expand, self.biases[2]).add_(shortcut), inplace=True)
        return torch.cudnn_convolution_add_relu(
            middle, expand, shortcut, 1.0, self.biases[2], (1, 1), (0, 0), (1, 1), 1
        )

    def _relu_of(self, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        padding = weight.shape[2] // 2
        if not self.fused:
            return F.relu(F.conv2d(x, weight, bias, stride, padding), inplace=True)
        return torch.cudnn_convolution_relu(x, weight, bias, (stride, stride), (padding, padding), (1, 1), 1)
