"""A residual block of ResNet-50 in training on the CPU: one fused op forward, one backward.

    if covers(block, x):            # anything with conv1, bn1, ..., conv3, bn3 and downsample, in training mode
        y = trained_bottleneck(block, x)

Both ops go through the block's maps in strips that stay in the cache: a convolution normalises and rectifies what it
reads, and takes the sums that the next batch statistics follow from out of what it has just written; in the backward
pass likewise. The 3x3 convolution of stride 1 and its input's gradient are Winograd's F(4x4, 3x3), in float32. Results
do not depend on threads: sums are divided by the shape alone, and added in their order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from npr_kernels import backends
from npr_kernels.backends import native
from npr_kernels.bottleneck import PANEL

MOST_WIDTH = 128
"""Of blocks that are covered. Wider ones, a whole ResNet-50's, PyTorch trains as fast or faster: Winograd's weights, 36
of each pair of channels, no longer stay in the cache."""


def covers(block: Any, x: Tensor) -> bool:
    """Whether :func:`trained_bottleneck` computes what the block's own modules would.

    It does for float32 [N, C, H, W] on the CPU without autocast, where all batch norms are in training, keep running
    statistics, are affine, of one eps and not synchronised between processes, where no module has hooks, and where all
    channels are multiples of :data:`PANEL`; unless another backend was asked for, see :class:`npr_kernels.backend`.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or x.dim() != 4 or torch.is_autocast_enabled("cpu"):
        return False
    if backends.requested() not in (None, "cpu") or native.unavailable_reason("cpu") is not None:
        return False
    pairs = _pairs(block)
    stride = block.conv2.stride[0]
    rows, columns = ((size + stride - 1) // stride for size in x.shape[2:])
    return (
        x.shape[0] * rows * columns > 1
        and block.conv2.out_channels <= MOST_WIDTH
        and x.shape[1] % PANEL == 0
        and len({norm.eps for _, norm in pairs}) == 1
        and all(_plain(conv, norm) for conv, norm in pairs)
    )


def trained_bottleneck(block: Any, x: Tensor) -> Tensor:
    """relu(bn3(conv3(relu(bn2(conv2(relu(bn1(conv1(x)))))))) + shortcut), of a block and an input that it covers.

    The running statistics are updated as batch norms do it. It cannot be differentiated twice.

    Args:
        x: float32 [N, C, H, W]; best in channels_last.

    Returns:
        float32 [N, outputs, ceil(H / stride), ceil(W / stride)] in channels_last.
    """
    pairs = _pairs(block)
    norms = [norm for _, norm in pairs]
    weights = [conv.weight.contiguous() for conv, _ in pairs]
    out, _, *maps, mean, var = torch.ops.npr.trained_bottleneck(
        x.contiguous(memory_format=torch.channels_last),
        *weights[:3],
        weights[3] if len(weights) == 4 else None,
        torch.cat([norm.weight for norm in norms]),
        torch.cat([norm.bias for norm in norms]),
        block.conv2.stride[0],
        norms[0].eps,
    )
    first = 0
    with torch.no_grad():
        for norm, of in zip(norms, maps, strict=False):
            channels = slice(first, first + norm.num_features)
            _update(norm, mean[channels], var[channels], of.numel() // norm.num_features)
            first += norm.num_features
    result: Tensor = out
    return result


def _pairs(block: Any) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    pairs = [(block.conv1, block.bn1), (block.conv2, block.bn2), (block.conv3, block.bn3)]
    if block.downsample is not None:
        pairs.append(tuple(block.downsample))
    return pairs


def _plain(conv: nn.Conv2d, norm: nn.Module) -> bool:
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.running_mean is not None
        and conv.bias is None
        and conv.out_channels % PANEL == 0
        and all(tensor.dtype == torch.float32 for tensor in (conv.weight, norm.weight, norm.running_mean))
        and not any(_has_hooks(module) for module in (conv, norm))
    )


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    )


def _update(norm: nn.BatchNorm2d, mean: Tensor, var: Tensor, count: int) -> None:
    """Of running statistics, by those of so many values a channel, whose variance is the biased one."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum if norm.momentum is not None else 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean.to(norm.running_mean), momentum)
    norm.running_var.lerp_((var * (count / (count - 1))).to(norm.running_var), momentum)
