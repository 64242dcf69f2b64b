"""A residual block of ResNet-50 for inference: batch norms folded in, one fused op on the CPU.

    block = FoldedBottleneck.of(layer)          # of anything with conv1, bn1, ..., conv3, bn3 and downsample
    y = block(x)                                # float32 [N, C, H, W] in channels_last, like y

The op reads its weights in panels of :data:`PANEL` outputs, :func:`panels`, and the 3x3 convolution of stride 1 as the
36 points of Winograd's F(4x4, 3x3), :func:`winograd_points`. An output's arithmetic does not depend on the batch, on
its place in the map (but for Winograd's tiles of 4x4 outputs, which start at the map's corner), or on threads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from npr_kernels.backends import native

PANEL = 32
"""Outputs of a panel: the op takes blocks of so many channels or a multiple."""

# G of F(4x4, 3x3), see csrc/cpu/winograd.h.
_WINOGRAD = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def fold_batch_norm(weight: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """A convolution without a bias and its batch norm in evaluation: float64 weight [O, C, KH, KW] and bias [O]."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    mean, var, gamma, beta = (
        value.detach().double() for value in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    gain = gamma / (var + norm.eps).sqrt()
    return weight.detach().double() * gain[:, None, None, None], beta - mean * gain


def panels(weight: Tensor) -> Tensor:
    """[O, I, taps] -> float32 [O / PANEL, taps, I, PANEL]."""
    outputs, inputs, taps = weight.shape
    return weight.float().view(outputs // PANEL, PANEL, inputs, taps).permute(0, 3, 2, 1).contiguous()


def winograd_points(weight: Tensor) -> Tensor:
    """G g G^T of 3x3 kernels: [O, I, 3, 3] -> float64 [O, I, 36]."""
    g = torch.tensor(_WINOGRAD, dtype=torch.float64)
    return weight.double().flatten(2) @ torch.kron(g, g).T


@dataclass(frozen=True)
class FoldedBottleneck:
    """relu(expand(relu(spatial(relu(reduce(x))))) + shortcut).

    Attributes:
        weights, biases: of reduce [width, C, 1, 1], spatial [width, width, 3, 3], expand [outputs, width, 1, 1] and,
            where the shortcut changes shape, project [outputs, C, 1, 1]; its bias is in that of expand. float64.
        stride: of spatial and project.
        packed: arguments of the op; None where it does not cover the block or is not there.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    stride: int
    packed: tuple[Tensor | None, ...] | None

    @classmethod
    def of(cls, block: Any) -> FoldedBottleneck:
        """Of a block in evaluation mode with the attributes of torchvision's and of this project's Bottleneck."""
        pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3)]
        if block.downsample is not None:
            pairs.append(tuple(block.downsample))
        folded = [fold_batch_norm(conv.weight, norm) for conv, norm in pairs]
        weights = tuple(weight for weight, _ in folded)
        biases = [bias for _, bias in folded]
        if len(biases) == 4:
            biases[2] = biases[2] + biases.pop()
        stride = block.conv2.stride[0]
        return cls(weights, tuple(biases), stride, _pack(weights, biases, stride))

    def shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Of the result for an input."""
        rows, columns = ((size + self.stride - 1) // self.stride for size in x.shape[2:])
        return x.shape[0], self.weights[2].shape[0], rows, columns

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """float32 [N, C, H, W] -> float32 [N, outputs, ceil(H / stride), ceil(W / stride)], both in channels_last.

        Args:
            out: what the result is written to and returned, of its shape and layout; it must not overlap x.
        """
        if self.packed is not None and x.device.type == "cpu":
            x = x.contiguous(memory_format=torch.channels_last)
            if out is None:
                result: Tensor = torch.ops.npr.bottleneck(x, *self.packed, self.stride)
                return result
            torch.ops.npr.bottleneck_out(x, *self.packed, self.stride, out)
            return out
        return self.reference(x) if out is None else out.copy_(self.reference(x))

    def reference(self, x: Tensor) -> Tensor:
        """The same in x's dtype, by PyTorch's convolutions."""
        return self.maps(x)[-1]

    def maps(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What each of the three ReLUs gives, the last of them the result, by PyTorch's convolutions."""
        weights = [weight.to(x) for weight in self.weights]
        reduce, spatial, expand = (bias.to(x) for bias in self.biases)
        reduced = F.relu(F.conv2d(x, weights[0], reduce))
        middle = F.relu(F.conv2d(reduced, weights[1], spatial, self.stride, padding=1))
        shortcut = x if len(weights) == 3 else F.conv2d(x, weights[3], None, self.stride)
        return reduced, middle, F.relu(F.conv2d(middle, weights[2], expand) + shortcut)


def _pack(weights: tuple[Tensor, ...], biases: list[Tensor], stride: int) -> tuple[Tensor | None, ...] | None:
    covered = all(weight.shape[0] % PANEL == 0 and weight.device.type == "cpu" for weight in weights)
    if not covered or stride not in (1, 2) or native.unavailable_reason("cpu") is not None:
        return None
    spatial = winograd_points(weights[1]) if stride == 1 else weights[1].flatten(2)
    panelled = [panels(weights[0].flatten(2))[:, 0], panels(spatial), panels(weights[2].flatten(2))[:, 0]]
    project = panels(weights[3].flatten(2))[:, 0].contiguous() if len(weights) == 4 else None
    arguments = [tensor for pair in zip(panelled, biases, strict=True) for tensor in pair]
    return (*(tensor.float().contiguous() for tensor in arguments), project)
