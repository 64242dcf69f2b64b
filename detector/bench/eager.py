"""What the fused ops and networks replace, as PyTorch users write it and as the original NPR code does."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.models import NPRDetector
from detector.models.resnet import bottleneck_layer
from npr_kernels import IMAGENET_MEAN, IMAGENET_STD, NPR_SCALE

MEAN = torch.tensor(IMAGENET_MEAN).view(-1, 1, 1)
STD = torch.tensor(IMAGENET_STD).view(-1, 1, 1)


def conv2d(images: Tensor, weight: Tensor, mean: Tensor = MEAN, std: Tensor = STD) -> Tensor:
    """Normalise, subtract each 2x2 cell's top-left pixel by down- and up-sampling, convolve."""
    x = (images.float() / 255 - mean) / std
    half = F.interpolate(x, scale_factor=0.5, mode="nearest")
    residual = x - F.interpolate(half, scale_factor=2.0, mode="nearest")
    return F.conv2d(residual * NPR_SCALE, weight, stride=2, padding=1)


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


class Network(Stem):
    """The original network, layer by layer: uint8 [N, 3, H, W], H and W even -> logits [N, 1]. Its state dict is
    :class:`NPRDetector`'s."""

    def __init__(self) -> None:
        super().__init__(64)
        self.layer1 = bottleneck_layer(64, 64, blocks=3)
        self.layer2 = bottleneck_layer(256, 128, blocks=4, stride=2)
        self.fc1 = nn.Linear(512, 1)

    @classmethod
    def of(cls, model: NPRDetector) -> Network:
        """With a copy of the model's weights, and in its mode. Its normalisation is ImageNet's, its residual NPR's."""
        network = cls().train(model.training)
        network.load_state_dict(model.state_dict())
        return network

    def forward(self, images: Tensor) -> Tensor:
        features = self.layer2(self.layer1(super().forward(images)))
        return self.fc1(F.adaptive_avg_pool2d(features, 1).flatten(1))
