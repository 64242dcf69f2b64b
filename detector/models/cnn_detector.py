"""The CNNDetection network: a ResNet-50 on the normalised image.

Source: Wang et al., "CNN-generated images are surprisingly easy to spot... for now", CVPR 2020 (arXiv 1912.11035),
Section 4.1.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.data import Preprocessing
from detector.models.detector import Detector
from detector.models.images import unit_range
from detector.models.resnet import bottleneck_layer, initialise


class CNNDetector(Detector):
    """Real or generated, from the pixels: ResNet-50 with one logit, 23,510,081 parameters.

    The state dict is torchvision's resnet50 and the original implementation's: conv1, bn1, layer1 to layer4, fc.
    Normalisation is the model's own, so it is fed with images, and gives the logits that the original gives for the
    normalised images.

    Args:
        preprocessing: how images are cropped before the model, and the normalisation (mean, std). By default as the
            paper tests: centre crops of 224 pixels. Its `scale` is NPR's and plays no part.

    Shape: uint8, or floating in [0, 1], [N, 3, H, W] -> logits [N, 1]; positive means generated.
    """

    # The paper tests on centre crops. It trains on ProGAN's images of 256x256, which its resize to 256 leaves alone.
    original_preprocessing = Preprocessing(policy="centre", crop=224)

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.preprocessing = preprocessing or self.original_preprocessing
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottleneck_layer(64, 64, blocks=3)
        self.layer2 = bottleneck_layer(256, 128, blocks=4, stride=2)
        self.layer3 = bottleneck_layer(512, 256, blocks=6, stride=2)
        self.layer4 = bottleneck_layer(1024, 512, blocks=3, stride=2)
        self.fc = nn.Linear(2048, 1)
        initialise(self)
        for name in ("mean", "std"):  # not in the state dict, which is the original's
            values = torch.tensor(getattr(self.preprocessing, name)).view(3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    @property
    def architecture(self) -> dict[str, Any]:
        return {}

    @property
    def classifier(self) -> nn.Linear:
        return self.fc

    @property
    def feature_stride(self) -> int:
        return 32

    @property
    def feature_reach(self) -> int:
        """To either side of pixel 32i.

        Going back from feature i: layer4 reaches 2i - 5 .. 2i + 5 on layer3's map, layer3 4i - 21 .. 4i + 21 on
        layer2's, layer2 8i - 49 .. 8i + 49 on layer1's, layer1 8i - 52 .. 8i + 52 on the pooled map, and pooling and
        conv1 the pixels 32i - 213 .. 32i + 213.
        """
        return 213

    def stem(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 64, ceil(H / 4), ceil(W / 4)]."""
        x = F.relu(self.bn1(self.conv1(self._normalised(images))), inplace=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return chain(self.layer1, self.layer2, self.layer3, self.layer4)

    def _normalised(self, images: Tensor) -> Tensor:
        return (unit_range(images, self.conv1.weight.dtype) - self.mean) / self.std
