"""NPR layers: drop-in replacements for the first layers of a detector."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from npr_kernels.constants import IMAGENET_STD, NPR_SCALE
from npr_kernels.functional import npr_conv2d


class NPRConv(nn.Conv2d):
    """First convolution of an NPR detector, fed with images: normalisation and residual are part of the layer.

    Takes the place of ``nn.Conv2d`` and of the normalisation and NPR before it; its parameters and state dict are those
    of ``nn.Conv2d``. Arguments beyond the ones of ``nn.Conv2d`` are those of :func:`npr_kernels.npr_conv2d`.

    Shape: uint8 (or floating in [0, 1]) [N, in_channels, H, W] -> [N, out_channels, OH, OW].
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 2,
        padding: int | tuple[int, int] = 1,
        bias: bool = False,
        *,
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
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias, device=device, dtype=dtype)
        self.std = None if std is None else tuple(std)
        self.scale, self.patch, self.anchor, self.mode = scale, patch, anchor, mode
        self.out_dtype, self.precision = out_dtype, precision

    def forward(self, images: Tensor) -> Tensor:
        return npr_conv2d(
            images,
            self.weight,
            self.bias,
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
            f"{super().extra_repr()}, std={self.std}, scale={self.scale:.6g}, "
            f"patch={self.patch}, anchor={self.anchor}, mode={self.mode!r}"
        )
