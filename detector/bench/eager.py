"""What the fused ops and networks replace, as PyTorch users write it and as the original NPR code does."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.models import NPRDetector
from npr_kernels import IMAGENET_MEAN, IMAGENET_STD, NPR_SCALE

MEAN = torch.tensor(IMAGENET_MEAN).view(-1, 1, 1)
STD = torch.tensor(IMAGENET_STD).view(-1, 1, 1)


def conv2d(images: Tensor, weight: Tensor, mean: Tensor = MEAN, std: Tensor = STD) -> Tensor:
    """Normalise, subtract each 2x2 cell's top-left pixel by down- and up-sampling, convolve."""
    x = (images.float() / 255 - mean) / std
    return F.conv2d(_npr(x) * NPR_SCALE, weight, stride=2, padding=1)


def stem(
    images: Tensor,
    weight: Tensor,
    bn_weight: Tensor,
    bn_bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    training: bool,
) -> Tensor:
    """:func:`conv2d`, batch norm, ReLU and max-pooling: the first layers of the original network."""
    y = conv2d(images, weight)
    z = F.relu(F.batch_norm(y, running_mean, running_var, bn_weight, bn_bias, training))
    return F.max_pool2d(z, kernel_size=3, stride=2, padding=1)


class Stem(nn.Module):
    """The first layers of the original network."""

    mean: Tensor
    std: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, outputs, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.register_buffer("mean", MEAN.clone(), persistent=False)
        self.register_buffer("std", STD.clone(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        y = conv2d(images, self.conv1.weight, self.mean, self.std)
        return F.max_pool2d(F.relu(self.bn1(y)), kernel_size=3, stride=2, padding=1)


class Original(nn.Module):
    """The network as the papers' code has it, with a detector's weights: float images, the residual by interpolation
    (NPR) or as the band of a transform (Haar, by strides), a plain ResNet.

    Shape: uint8 [N, 3, H, W], H and W even -> logits [N, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: NPRDetector) -> None:
        super().__init__()
        conv = model.conv1
        if (conv.patch, conv.anchor, conv.mode) != (2, 0, "pixel") or model.pooling != "mean":
            raise ValueError("only the papers' residuals and pooling have an original")
        self.residuals, self.scale = conv.residual.split("+"), conv.scale
        self.weights = nn.ParameterList(conv.weight.detach().chunk(len(self.residuals), dim=1))
        own = copy.deepcopy(model)  # its layout may change
        self.bn1, self.layer1, self.layer2, self.fc1 = own.bn1, own.layer1, own.layer2, own.fc1
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(getattr(model.preprocessing, name)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = (images.float() / 255 - self.mean) / self.std
        maps = [_npr(x) if name == "npr" else _haar(x) for name in self.residuals]
        strides = [2 if name == "npr" else 1 for name in self.residuals]
        parts = [
            F.conv2d(residual * self.scale, weight, stride=stride, padding=1)
            for residual, weight, stride in zip(maps, self.weights, strides, strict=True)
        ]
        y = F.relu(self.bn1(sum(parts[1:], parts[0])))
        y = F.max_pool2d(y, kernel_size=3, stride=2, padding=1)
        return self.fc1(self.layer2(self.layer1(y)).mean(dim=(2, 3)))


def _npr(x: Tensor) -> Tensor:
    half = F.interpolate(x, scale_factor=0.5, mode="nearest")
    return x - F.interpolate(half, scale_factor=2.0, mode="nearest")


def _haar(x: Tensor) -> Tensor:
    return (x[:, :, ::2, ::2] - x[:, :, ::2, 1::2] - x[:, :, 1::2, ::2] + x[:, :, 1::2, 1::2]) / 2
