"""NPR layers: drop-in replacements for the first layers of a detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from npr_kernels.constants import IMAGENET_STD, NPR_SCALE
from npr_kernels.functional import check_residual, npr_conv2d, npr_stem
from npr_kernels.residuals import RESIDUALS, default_stride


class NPRConv(nn.Conv2d):
    """First convolution of a detector, fed with images: normalisation and residual are part of the layer.

    Takes the place of ``nn.Conv2d`` and of the normalisation and residual before it; its parameters and state dict are
    those of ``nn.Conv2d``, of one with 2 ``in_channels`` for the residual "npr+haar". Arguments beyond the ones of
    ``nn.Conv2d`` are those of :func:`npr_kernels.npr_conv2d`; so is the stride, None for one output for each 2x2 cell.

    Shape: uint8 (or floating in [0, 1]) [N, in_channels, H, W] -> [N, out_channels, OH, OW].

    Example:
        >>> import torch, npr_kernels as nk
        >>> layer = nk.NPRConv(3, 64)
        >>> layer.load_state_dict(torch.nn.Conv2d(3, 64, kernel_size=3, bias=False).state_dict())
        <All keys matched successfully>
        >>> layer(torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)).shape
        torch.Size([2, 64, 32, 24])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] | None = None,
        padding: int | tuple[int, int] = 1,
        bias: bool = False,
        *,
        residual: str = "npr",
        std: Sequence[float] | None = IMAGENET_STD,
        scale: float = NPR_SCALE,
        patch: int = 2,
        anchor: int = 0,
        mode: str = "pixel",
        out_dtype: torch.dtype | None = None,
        precision: str = "full",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        check_residual("NPRConv", residual, patch, anchor, mode)
        super().__init__(
            in_channels * len(RESIDUALS[residual]), out_channels, kernel_size,
            default_stride(residual) if stride is None else stride, padding, bias=bias, device=device, dtype=dtype,
        )  # fmt: skip
        self.residual = residual
        self.std = None if std is None else tuple(std)
        self.scale, self.patch, self.anchor, self.mode = scale, patch, anchor, mode
        self.out_dtype, self.precision = out_dtype, precision

    def forward(self, images: Tensor) -> Tensor:
        return npr_conv2d(
            images,
            self.weight,
            self.bias,
            residual=self.residual,
            stride=self.stride,  # type: ignore[arg-type]
            padding=self.padding,  # type: ignore[arg-type]
            std=self.std,
            scale=self.scale,
            patch=self.patch,
            anchor=self.anchor,
            mode=self.mode,
            out_dtype=self.out_dtype,
            precision=self.precision,
        )

    def extra_repr(self) -> str:
        return (
            f"{super().extra_repr()}, residual={self.residual!r}, std={self.std}, scale={self.scale:.6g}, "
            f"patch={self.patch}, anchor={self.anchor}, mode={self.mode!r}"
        )


class NPRStem(nn.Module):
    """First layers of the NPR detector, fused: residual, ``conv1``, ``bn1``, ReLU and 3x3/2 max-pooling.

    ``conv1`` and ``bn1`` hold the parameters under the names of the original implementation, whose state dict loads.
    ``bn1`` is an ``nn.BatchNorm2d`` with its semantics: running statistics, momentum (None for cumulative), eps,
    affine, train/eval, num_batches_tracked. ``nn.SyncBatchNorm.convert_sync_batchnorm`` makes it share statistics
    between ranks.

    Shape: uint8 (or floating in [0, 1]) [N, in_channels, H, W] -> [N, out_channels, PH, PW], see
    :func:`npr_kernels.npr_stem`.

    Example:
        >>> import torch, npr_kernels as nk
        >>> stem = nk.NPRStem(64)
        >>> sorted(name for name, _ in stem.named_parameters())
        ['bn1.bias', 'bn1.weight', 'conv1.weight']
        >>> stem(torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)).shape
        torch.Size([2, 64, 16, 12])
    """

    def __init__(
        self,
        out_channels: int = 64,
        in_channels: int = 3,
        *,
        residual: str = "npr",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        std: Sequence[float] | None = IMAGENET_STD,
        scale: float = NPR_SCALE,
        out_dtype: torch.dtype | None = None,
        precision: str = "full",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = NPRConv(
            in_channels, out_channels, residual=residual, std=std, scale=scale, out_dtype=out_dtype,
            precision=precision, device=device, dtype=dtype,
        )  # fmt: skip
        self.bn1 = nn.BatchNorm2d(out_channels, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)

    def forward(self, images: Tensor) -> Tensor:
        return fused_stem(images, self.conv1, self.bn1)


def fused_stem(images: Tensor, conv: NPRConv, bn: nn.BatchNorm2d | nn.SyncBatchNorm) -> Tensor:
    """``max_pool2d(relu(bn(conv(images))), 3, 2, 1)`` in one pass, for models that keep their layers as attributes.

    The modules are used as their own forward would: ``bn`` updates its running statistics and counts its batches; an
    ``nn.SyncBatchNorm`` in training shares its statistics over its process group. A convolution with a bias or of
    another geometry than the fused stem's (the paper's ablations) runs layer by layer.

    Example:
        >>> import torch, npr_kernels as nk
        >>> conv, norm = nk.NPRConv(3, 64), torch.nn.BatchNorm2d(64)
        >>> nk.fused_stem(torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8), conv, norm).shape
        torch.Size([2, 64, 16, 12])
        >>> norm.num_batches_tracked
        tensor(1)
    """
    geometry = (conv.kernel_size, conv.stride, conv.padding, conv.patch, conv.anchor, conv.mode)
    stride = (default_stride(conv.residual),) * 2
    if geometry != ((3, 3), stride, (1, 1), 2, 0, "pixel") or conv.bias is not None:
        return F.max_pool2d(F.relu(bn(conv(images))), kernel_size=3, stride=2, padding=1)
    momentum = bn.momentum
    if bn.training and bn.num_batches_tracked is not None:
        bn.num_batches_tracked.add_(1)
        if momentum is None:
            momentum = 1.0 / float(bn.num_batches_tracked)
    training = bn.training or bn.running_mean is None
    return npr_stem(
        images,
        conv.weight,
        bn.weight,
        bn.bias,
        bn.running_mean if not bn.training or bn.track_running_stats else None,
        bn.running_var if not bn.training or bn.track_running_stats else None,
        residual=conv.residual,
        training=training,
        momentum=0.0 if momentum is None else momentum,
        eps=bn.eps,
        std=conv.std,
        scale=conv.scale,
        out_dtype=conv.out_dtype,
        precision=conv.precision,
        group=_process_group(bn) if bn.training else None,
    )


def _process_group(bn: nn.Module) -> dist.ProcessGroup | None:
    """The ranks that share ``bn``'s statistics; None when it does not synchronise."""
    if not isinstance(bn, nn.SyncBatchNorm) or not (dist.is_available() and dist.is_initialized()):
        return None
    group = bn.process_group if bn.process_group is not None else dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None
