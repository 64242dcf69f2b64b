"""What a learned generator is trained against: the photograph, coarsely and finely, and a discriminator of patches."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches (Isola et al., CVPR 2017), kept smooth by spectral norm (Miyato et al., ICLR 2018).

    Shape: [N, 3, H, W] in -1..1 -> logits [N, 1, H / 4, W / 4] and the hidden features.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            spectral_norm(layer)
            for layer in (
                nn.Conv2d(3, width, 4, 2, 1),
                nn.Conv2d(width, 2 * width, 4, 2, 1),
                nn.Conv2d(2 * width, 3 * width, 3, 1, 1),
            )
        )
        self.head = spectral_norm(nn.Conv2d(3 * width, 1, 3, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = []
        x = images
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.head(x), features


def reconstruction(fake: Tensor, real: Tensor, finest: int = 1) -> Tensor:
    """L1 distance of the images shrunk by 1, 2, 4, 8, and of their gradients; those finer than `finest` do not count.

    The coarse scales hold the colours, the gradients the edges.
    """
    total = fake.new_zeros(())
    for scale in (1, 2, 4, 8):
        if scale >= finest:
            weight = 1.0 if scale == 1 else 0.5
            total = total + weight * (F.avg_pool2d(fake, scale) - F.avg_pool2d(real, scale)).abs().mean()
    if finest == 1:
        for axis in (2, 3):
            total = total + 0.5 * (fake.diff(dim=axis) - real.diff(dim=axis)).abs().mean()
    return total


def feature_matching(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Relative L1 distance of a discriminator's features (Wang et al., CVPR 2018): a perceptual loss that needs no
    network trained elsewhere."""
    distances = [
        (f.float() - r.float().detach()).abs().mean() / (r.float().detach().abs().mean() + 1e-3)
        for f, r in zip(fake, real, strict=True)
    ]
    return torch.stack(distances).sum()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """The discriminator's loss of its logits."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
