"""The parts that learned generators are made of: normalisation, activations, residual blocks, and how real generators
up-sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Up = Literal["nearest", "bilinear", "fir", "transposed3", "transposed4", "pixelshuffle"]
Norm = Literal["group", "instance", "batch", "none"]
Activation = Literal["silu", "relu", "leaky"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "leaky": lambda: nn.LeakyReLU(0.2),
}


def activation(kind: Activation) -> nn.Module:
    return _ACTIVATIONS[kind]()


def norm(kind: Norm, channels: int) -> nn.Module:
    """Normalises [N, channels, H, W]; groups are of eight channels."""
    match kind:
        case "group":
            return nn.GroupNorm(max(1, channels // 8), channels)
        case "instance":
            return nn.InstanceNorm2d(channels, affine=True)
        case "batch":
            return nn.BatchNorm2d(channels)
        case _:
            return nn.Identity()


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)


class Residual(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), as in latent diffusion's autoencoders (Rombach et al., CVPR 2022).

    The last convolution starts at a constant, so that a deep network starts as a shallow one and learns sooner.
    """

    def __init__(self, channels: int, kind: Norm, act: Activation) -> None:
        super().__init__()
        last = conv(channels, channels)
        nn.init.zeros_(last.weight)
        self.body = nn.Sequential(
            norm(kind, channels),
            activation(act),
            conv(channels, channels),
            norm(kind, channels),
            activation(act),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class Fir(nn.Module):
    """The binomial filter 1 3 3 1 of StyleGAN2 (Karras et al., CVPR 2020), of unit gain per pixel of the result.

    Shape: with `stuffing`, zeros are put between the pixels first: [N, C, H, W] -> [N, C, 2 H, 2 W]; without, it
    smooths what a transposed convolution gave: [N, C, H, W] -> [N, C, H - 1, W - 1].
    """

    kernel: Tensor

    def __init__(self, channels: int, *, stuffing: bool) -> None:
        super().__init__()
        self.stuffing = stuffing
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0]) / (4 if stuffing else 8)
        self.register_buffer("kernel", (taps[:, None] * taps).repeat(channels, 1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.kernel.to(x.dtype)
        if self.stuffing:
            return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])
        return F.conv2d(x, kernel, padding=1, groups=x.shape[1])


def up(kind: Up, inputs: int, outputs: int) -> nn.Module:
    """Up-sampling by two with what learns around it: [N, inputs, H, W] -> [N, outputs, 2 H, 2 W].

    "fir" is StyleGAN2's: a transposed convolution, then the filter.

    Raises:
        ValueError: there is no such up-sampler.
    """
    match kind:
        case "nearest" | "bilinear":
            return nn.Sequential(nn.Upsample(scale_factor=2, mode=kind), conv(inputs, outputs))
        case "fir":
            return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 3, stride=2), Fir(outputs, stuffing=False))
        case "transposed3":
            return nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        case "transposed4":
            return nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)
        case "pixelshuffle":
            return nn.Sequential(conv(inputs, 4 * outputs), nn.PixelShuffle(2))
    raise ValueError(f"up must be one of {', '.join(get_args(Up))}, got {kind!r}")
