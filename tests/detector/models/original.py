"""The original NPR network, rebuilt in plain PyTorch from its description: what NPRDetector must agree with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def convolution(inputs, outputs, size, stride=1):
    return nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, inputs, width, stride):
        super().__init__()
        self.conv1, self.bn1 = convolution(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = convolution(width, width, 3, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = convolution(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        if stride > 1 or inputs != 4 * width:
            self.downsample = nn.Sequential(convolution(inputs, 4 * width, 1, stride), nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        shortcut = self.downsample(x) if hasattr(self, "downsample") else x
        return torch.relu(self.bn3(self.conv3(y)) + shortcut)


class Original(nn.Module):
    """Fed with normalised images of even sizes."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = convolution(3, 64, 3, 2), nn.BatchNorm2d(64)
        self.layer1 = nn.Sequential(*[Block(64 if i == 0 else 256, 64, 1) for i in range(3)])
        self.layer2 = nn.Sequential(*[Block(256 if i == 0 else 512, 128, 2 if i == 0 else 1) for i in range(4)])
        self.fc1 = nn.Linear(512, 1)

    def forward(self, x):
        halved = F.interpolate(x, scale_factor=0.5, mode="nearest")
        residual = x - F.interpolate(halved, scale_factor=2, mode="nearest")
        y = torch.relu(self.bn1(self.conv1(residual * 2 / 3)))
        y = F.max_pool2d(y, 3, stride=2, padding=1)
        return self.fc1(self.layer2(self.layer1(y)).flatten(2).mean(2))


def randomise(model):
    """Random weights, statistics and affine terms under which activations neither vanish nor explode."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model


def normalise(images, dtype=torch.float32):
    """uint8 -> what the original is fed with: ImageNet-normalised, cropped to even sizes."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=dtype).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=dtype).view(3, 1, 1)
    height, width = (side // 2 * 2 for side in images.shape[2:])
    return ((images.to(dtype) / 255 - mean) / std)[:, :, :height, :width]
