"""A residual block of ResNet-50 for inference on 8-bit maps, one fused op on the CPU.

    block = QuantisedBottleneck.of(folded, steps)     # of a FoldedBottleneck, and what its maps are counted in
    y = block(quantise(x, steps.x))                   # uint8 [N, C, H, W] in channels_last, like y

A map holds numbers of steps, 0 to 255, of values that are not negative: zero is zero, exactly, and so is the padding.
A channel may have steps of its own, which the weights that read it take up; a weight is a number of steps of its
output's own, -64 to 64, so large that four products fit 16 bits. Products of the two are summed in int32, exactly; a
sum becomes a number of the next map's steps by float arithmetic that is rounded operation by operation. So the op gives
the same bits on every instruction set, in any batch and on any number of threads, and
:meth:`QuantisedBottleneck.reference` gives them too.

Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018 (arXiv 1712.05877), Section 2, here with steps of each channel and no zero points.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from npr_kernels.backends import native
from npr_kernels.bottleneck import PANEL, FoldedBottleneck

QUAD = 4
"""Channels that the op multiplies together: it takes inputs of so many or a multiple."""

LARGEST = 255
"""Steps that a map's value can count."""

LARGEST_WEIGHT = 64
"""Steps that a weight can count, to either side."""

LARGEST_SUM = 128
"""What weights of one sign add up to at most among the four of an output whose products AVX2 adds in 16 bits, those for
channels 0, 1, 4, 5 and 2, 3, 6, 7 of each eight in each place of a convolution: 255 * 128 is 32640."""


class Steps(NamedTuple):
    """What a number counts in the block's maps: the input, after reduce, after spatial, and the result, which is float
    where it has none. Of each channel, [C], or of all, a scalar; positive."""

    x: Tensor
    reduced: Tensor
    middle: Tensor
    out: Tensor | None


class _Conv(NamedTuple):
    """Weights [O, C, KH, KW] int8, and [O] float32: gain and bias in steps of the result."""

    weight: Tensor
    gain: Tensor
    bias: Tensor


@dataclass(frozen=True)
class QuantisedBottleneck:
    """relu(expand(relu(spatial(relu(reduce(x))))) + shortcut), each ReLU's result rounded to steps.

    Attributes:
        reduce, spatial, expand: the convolutions; the shortcut's bias is in expand's.
        project: the shortcut's weights, int8 [O, C, 1, 1]; None where it is the input.
        shortcut_gain: float32 [O].
        stride: of spatial and project.
        as_float: the result is float32, not rounded.
        packed: arguments of the op; None where it does not cover the block or is not there.
    """

    reduce: _Conv
    spatial: _Conv
    expand: _Conv
    project: Tensor | None
    shortcut_gain: Tensor
    stride: int
    as_float: bool
    packed: tuple[Tensor | None, ...] | None

    @classmethod
    def of(cls, block: FoldedBottleneck, steps: Steps) -> QuantisedBottleneck:
        """Of a block whose maps have these steps.

        Raises:
            ValueError: a step is not positive and finite.
        """
        for name, step in zip(Steps._fields, steps, strict=True):
            if step is not None and not bool(((step > 0) & step.isfinite()).all()):
                raise ValueError(f"the steps of {name} must be positive and finite, got {step}")
        unit = torch.ones(()) if steps.out is None else steps.out
        reduce = _conv(block.weights[0], block.biases[0], steps.x, steps.reduced)
        spatial = _conv(block.weights[1], block.biases[1], steps.reduced, steps.middle)
        expand = _conv(block.weights[2], block.biases[2], steps.middle, unit)
        if len(block.weights) == 4:
            project, gain, _ = _conv(block.weights[3], block.biases[2], steps.x, unit)
        else:
            project, gain = None, (steps.x.double() / unit.double()).float().expand_as(expand.gain)
        packed = _pack(reduce, spatial, expand, project, gain, block.stride)
        return cls(reduce, spatial, expand, project, gain, block.stride, steps.out is None, packed)

    @property
    def dtype(self) -> torch.dtype:
        """Of the result."""
        return torch.float32 if self.as_float else torch.uint8

    def shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """Of the result for an input."""
        rows, columns = ((size + self.stride - 1) // self.stride for size in x.shape[2:])
        return x.shape[0], self.expand.weight.shape[0], rows, columns

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """uint8 [N, C, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)], both in channels_last.

        Args:
            out: what the result is written to and returned, of its shape, dtype and layout; it must not overlap x.
        """
        if self.packed is None:
            return self.reference(x) if out is None else out.copy_(self.reference(x))
        if out is None:
            out = torch.empty(self.shape(x), dtype=self.dtype, memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
        torch.ops.npr.quantised_bottleneck(x, *self.packed, self.stride, out)
        return out

    def reference(self, x: Tensor) -> Tensor:
        """The same, bit for bit, by PyTorch's convolutions of float64, which holds the sums exactly."""
        y = _to_steps(_scaled(_sums(x, self.reduce.weight), *self.reduce[1:]))
        y = _to_steps(_scaled(_sums(y, self.spatial.weight, self.stride, padding=1), *self.spatial[1:]))
        shortcut = x if self.project is None else _sums(x, self.project, self.stride)
        value = _scaled(_sums(y, self.expand.weight), *self.expand[1:])
        value = value + shortcut.float() * self.shortcut_gain[:, None, None]
        return F.relu(value) if self.as_float else _to_steps(value)


def quantise(x: Tensor, step: Tensor, out: Tensor | None = None) -> Tensor:
    """Numbers of steps, to nearest, ties to even, 0 to 255: float32 [N, C, H, W] -> uint8, both in channels_last.

    Args:
        step: of each channel, [C], or of all, a scalar.
        out: what the result is written to and returned, of its shape, dtype and layout.
    """
    gain = (1 / step.double()).float().expand(x.shape[1]).contiguous()
    if native.unavailable_reason("cpu") is not None:
        result = _to_steps(x * gain[:, None, None])
        return result if out is None else out.copy_(result)
    x = x.contiguous(memory_format=torch.channels_last)
    if out is None:
        out = torch.empty(x.shape, dtype=torch.uint8, memory_format=torch.channels_last)
    torch.ops.npr.quantise(x, gain, out)
    return out


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights [O, C, KH, KW] as int8 within LARGEST_WEIGHT and LARGEST_SUM, and the step of each output, float64 [O].

    Each is rounded to nearest but for the few of an output, those nearest to the middle between two numbers, that are
    rounded the other way so that its errors add up to less than one step: inputs are not negative, so an output would
    be moved by the sum of its errors times what inputs are on average (as by Nagel et al., "Data-Free Quantization
    Through Weight Equalization and Bias Correction", ICCV 2019, Section 4.2, for inputs whose means are known).
    """
    flat = weight.double().flatten(1)
    # Of a sum's four weights each may be rounded up by less than a step.
    steps = torch.maximum(flat.abs().amax(dim=1) / LARGEST_WEIGHT, largest_sums(weight.double()) / (LARGEST_SUM - 4))
    steps = torch.where(steps > 0, steps, torch.ones_like(steps))
    scaled = flat / steps[:, None]
    rounded = scaled.round()
    errors = ((rounded - scaled) * 2**32).round().long()  # whose sums are the same in any order, so everywhere
    surplus = (errors.sum(dim=1, keepdim=True) + 2**31) >> 32
    rank = errors.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    rounded = rounded - (rank < surplus).double() + (rank >= errors.shape[1] + surplus).double()
    return rounded.view(weight.shape).to(torch.int8), steps


def largest_sums(weight: Tensor) -> Tensor:
    """What weights [O, C, KH, KW] of one sign add up to at most among four that LARGEST_SUM is of: [O]."""
    channels = F.pad(weight.flatten(2), (0, 0, 0, -weight.shape[1] % (2 * QUAD)))
    fours = channels.unflatten(1, (-1, 2, QUAD // 2, 2))  # [O, C / 8, quad, half, channel, KH * KW]
    return torch.stack([(sign * fours).clamp(min=0).sum(dim=(2, 4)) for sign in (1, -1)]).flatten(2).amax(dim=(0, 2))


def quads(weight: Tensor) -> Tensor:
    """int8 [O, C, taps] -> [O / PANEL, taps * C / QUAD, PANEL, QUAD]."""
    outputs, inputs, taps = weight.shape
    split = weight.view(outputs // PANEL, PANEL, inputs // QUAD, QUAD, taps).permute(0, 4, 2, 1, 3)
    return split.reshape(outputs // PANEL, taps * inputs // QUAD, PANEL, QUAD).contiguous()


def _conv(weight: Tensor, bias: Tensor, step: Tensor, step_out: Tensor) -> _Conv:
    # Steps of channels are part of the weights before those are rounded, so that sums have steps of outputs alone.
    weight, steps = quantise_weight(weight.double() * step.double().view(-1, 1, 1))
    return _Conv(weight, (steps / step_out.double()).float(), (bias.double() / step_out.double()).float())


def _pack(
    reduce: _Conv, spatial: _Conv, expand: _Conv, project: Tensor | None, shortcut_gain: Tensor, stride: int
) -> tuple[Tensor | None, ...] | None:
    weights = [conv.weight for conv in (reduce, spatial, expand)]
    covered = all(weight.shape[0] % PANEL == 0 and weight.shape[1] % QUAD == 0 for weight in weights)
    if not covered or stride not in (1, 2) or native.unavailable_reason("cpu") is not None:
        return None
    arguments: list[Tensor | None] = []
    for conv in (reduce, spatial, expand):
        arguments += [quads(conv.weight.flatten(2)), conv.gain, conv.bias]
    arguments.append(None if project is None else quads(project.flatten(2)))
    return (*arguments, shortcut_gain.contiguous())


def _sums(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """The convolution of integers, as float32, which rounds sums above 2^24 as the op does."""
    return F.conv2d(x.double(), weight.double(), None, stride, padding).float()


def _scaled(sums: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    return sums * gain[:, None, None] + bias[:, None, None]


def _to_steps(value: Tensor) -> Tensor:
    return value.nan_to_num(nan=0.0).clamp(0, LARGEST).round().to(torch.uint8)
