"""The specification: the residuals, their fused first convolution and stem, in plain PyTorch.

Every backend is held to these functions. They are differentiable by autograd, run on any device and in any
floating dtype, and cover what no fused kernel does: other kernel sizes, strides, cells, anchors and modes.

Sources: NPR is of Tan et al., "Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable
Deepfake Detection", CVPR 2024 (arXiv 2312.10461), Section 3; the diagonal Haar band of Li et al., "Improving Synthetic
Image Detection Towards Generalization: An Image Transformation Perspective", KDD 2025 (arXiv 2408.06741).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.nn.functional import all_reduce

from npr_kernels.constants import IMAGENET_STD, NPR_SCALE
from npr_kernels.residuals import HAAR, RESIDUALS, default_stride


def npr_residual(
    images: Tensor,  # [N, C, H, W]
    *,
    patch: int = 2,
    anchor: int = 0,
    mode: str = "pixel",
) -> Tensor:  # [N, C, H - H % patch, W - W % patch]
    """Neighbouring pixel relationships: every pixel minus a representative of its patch x patch cell.

    The representative is the cell's pixel number ``anchor`` in row-major order (``mode="pixel"``, the paper's
    choice), its mean or its maximum (the paper's Table 7). Rows and columns beyond the last whole cell are dropped.
    Floating images give their own dtype. uint8 images give the exact integers as int16, or float32 for the mean.
    """
    n, c, h, w = images.shape
    rows, cols = h // patch, w // patch
    x = images[:, :, : rows * patch, : cols * patch]
    if x.dtype == torch.uint8:
        x = x.to(torch.float32 if mode == "mean" else torch.int16)
    cells = x.reshape(n, c, rows, patch, cols, patch)
    if mode == "pixel":
        row, col = divmod(anchor, patch)
        representative = cells[:, :, :, row : row + 1, :, col : col + 1]
    elif mode == "mean":
        representative = cells.mean(dim=(3, 5), keepdim=True)
    elif mode == "max":
        representative = cells.amax(dim=(3, 5), keepdim=True)
    else:
        raise ValueError(f"mode must be 'pixel', 'mean' or 'max', got {mode!r}")
    return (cells - representative).reshape(n, c, rows * patch, cols * patch)


def haar_residual(
    images: Tensor,  # [N, C, H, W]
) -> Tensor:  # [N, C, H // 2, W // 2]
    """Twice the diagonal band of the Haar transform: a - b - c + d of each 2x2 cell, a and b above c and d.

    An odd last row or column is dropped. Floating images give their own dtype, uint8 images exact integers as int16.
    """
    x = images[:, :, : images.shape[2] // 2 * 2, : images.shape[3] // 2 * 2]
    if x.dtype == torch.uint8:
        x = x.to(torch.int16)
    return x[:, :, ::2, ::2] - x[:, :, ::2, 1::2] - x[:, :, 1::2, ::2] + x[:, :, 1::2, 1::2]


def npr_conv2d(
    images: Tensor,  # [N, C, H, W], uint8, or floating in [0, 1]
    weight: Tensor,  # [O, C, KH, KW], or [O, 2 C, KH, KW] for "npr+haar"
    bias: Tensor | None = None,  # [O]
    *,
    residual: str = "npr",
    stride: int | tuple[int, int] | None = None,
    padding: int | tuple[int, int] = 1,
    std: Sequence[float] | None = IMAGENET_STD,
    scale: float = NPR_SCALE,
    patch: int = 2,
    anchor: int = 0,
    mode: str = "pixel",
    out_dtype: torch.dtype | None = None,
) -> Tensor:  # [N, O, OH, OW]
    """``conv2d(scale * residual((images - mean) / std), weight, bias)``, summed over the maps of the residual.

    The mean cancels in the residual, so only ``std`` remains; ``None`` says that the images are already normalised.
    The Haar band is half of :func:`haar_residual`. The stride counts pixels for "npr" and cells otherwise; the padding
    pads the residual with zeros. Computes in the widest of the inputs' dtypes and float32.
    """
    floating = images.dtype if images.is_floating_point() else torch.float32
    dtype = torch.promote_types(torch.promote_types(floating, weight.dtype), torch.float32)
    maps, cell = RESIDUALS[residual], default_stride(residual)
    stride = cell if stride is None else stride
    stride_y, stride_x = (stride, stride) if isinstance(stride, int) else stride
    x, bias = images.to(dtype), None if bias is None else bias.to(dtype)
    outs = []
    for each, part in zip(maps, weight.to(dtype).chunk(len(maps), dim=1), strict=True):
        if each is HAAR:
            values = haar_residual(x) * each.gain
        else:
            values = npr_residual(x, patch=patch, anchor=anchor, mode=mode)
        if images.dtype == torch.uint8:
            values = values / 255
        if std is not None:
            values = values / torch.tensor(std, dtype=dtype, device=images.device).view(-1, 1, 1)
        step = each.step // cell
        with torch.autocast(images.device.type, enabled=False):
            outs.append(F.conv2d(values * scale, part, bias, (stride_y * step, stride_x * step), padding))
        bias = None  # once
    return sum(outs[1:], outs[0]).to(weight.dtype if out_dtype is None else out_dtype)


def npr_stem(
    images: Tensor,  # [N, C, H, W], uint8, or floating in [0, 1]
    weight: Tensor,  # [O, C, 3, 3], or [O, 2 C, 3, 3] for "npr+haar"
    bn_weight: Tensor | None,  # [O]
    bn_bias: Tensor | None,  # [O]
    running_mean: Tensor | None,  # [O], updated in place in training
    running_var: Tensor | None,  # [O], updated in place in training
    *,
    residual: str = "npr",
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    std: Sequence[float] | None = IMAGENET_STD,
    scale: float = NPR_SCALE,
    out_dtype: torch.dtype | None = None,
    group: dist.ProcessGroup | None = None,
) -> Tensor:  # [N, O, PH, PW], PH = ceil(floor(H / 2) / 2), PW likewise
    """The detector's stem: ``max_pool2d(relu(batch_norm(npr_conv2d(images, weight))), 3, stride=2, padding=1)``.

    With ``group``, the batch statistics are those of all its ranks.
    """
    dtype = torch.promote_types(weight.dtype, torch.float32)
    y = npr_conv2d(images, weight, residual=residual, std=std, scale=scale, out_dtype=dtype)
    with torch.autocast(images.device.type, enabled=False):
        if training and group is not None:
            z = _synchronised_batch_norm(y, running_mean, running_var, bn_weight, bn_bias, momentum, eps, group)
        else:
            z = F.batch_norm(y, running_mean, running_var, bn_weight, bn_bias, training, momentum, eps)
        out = F.max_pool2d(F.relu(z), kernel_size=3, stride=2, padding=1)
    return out.to(weight.dtype if out_dtype is None else out_dtype)


def _synchronised_batch_norm(
    y: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    momentum: float,
    eps: float,
    group: dist.ProcessGroup,
) -> Tensor:
    """Batch norm in training with the statistics of all ranks; differentiable through the all-reduce."""
    sums = torch.cat([y.new_full((1,), y.numel() / y.shape[1]), y.sum((0, 2, 3)), y.square().sum((0, 2, 3))])
    totals: Tensor = all_reduce(sums.double(), group=group)
    count, (mean, square) = totals[0], (totals[1:] / totals[0]).chunk(2)
    var = square - mean.square()
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * count / (count - 1)).to(running_var.dtype), momentum)
    z = (y - mean.to(y.dtype).view(-1, 1, 1)) * torch.rsqrt(var + eps).to(y.dtype).view(-1, 1, 1)
    z = z if bn_weight is None else z * bn_weight.view(-1, 1, 1)
    return z if bn_bias is None else z + bn_bias.view(-1, 1, 1)
