"""The NPR network: a ResNet-50 cut after its second layer, on the residual of 2x2 cells, NPR's or another.

Sources: Tan et al., "Rethinking the Up-Sampling Operations in CNN-based Generative Network for Generalizable Deepfake
Detection", CVPR 2024 (arXiv 2312.10461), Section 4; for the Haar residual Li et al., "Improving Synthetic Image
Detection Towards Generalization: An Image Transformation Perspective" (SAFE), KDD 2025 (arXiv 2408.06741).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from detector.data import Preprocessing
from detector.models.detector import Detector
from detector.models.luma import read_luma
from detector.models.periodicity import Periodicity
from detector.models.pooling import share_of
from detector.models.resnet import bottleneck_layer, initialise
from npr_kernels import NPRConv, fused_stem


class NPRDetector(Detector):
    """Real or generated, from the residual of 2x2 cells: 1,437,761 parameters, one logit. With `periodicity`, what the
    whole image says is added, by 649 more.

    The state dict is the original implementation's: conv1, bn1, layer1, layer2, fc1. Normalisation and residual are
    part of conv1, so the model is fed with images, and gives the logits that the original gives for the normalised
    images (cropped to even sizes, without which the original raises).

    Args:
        preprocessing: how images are resized and cropped before the model, and the constants (std, scale) of conv1.
        residual: what conv1 reads, "npr", "haar" or "npr+haar", see :func:`npr_kernels.npr_conv2d`.
        patch, anchor, mode: NPR's variants of the paper's Table 7, see :func:`npr_kernels.npr_residual`.
        luma: conv1's weights of the channels stay in the proportion of luma, see :mod:`detector.models.luma`.
        pooling: "mean" or "top-K%", see :func:`detector.models.pooling.share_of`.
        periodicity: whether the logit of :class:`detector.models.periodicity.Periodicity` is added.

    Shape: uint8, or floating in [0, 1], [N, 3, H, W], H and W >= 2 -> logits [N, 1]; positive means generated.
    """

    # How the paper tests most of its sets.
    original_preprocessing = Preprocessing(policy="resize", resize=256, crop=224)

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        *,
        residual: str = "npr",
        patch: int = 2,
        anchor: int = 0,
        mode: str = "pixel",
        luma: bool = False,
        pooling: str = "mean",
        periodicity: bool = False,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing or Preprocessing()
        self.conv1 = NPRConv(
            3,
            64,
            std=self.preprocessing.std,
            scale=self.preprocessing.scale,
            residual=residual,
            patch=patch,
            anchor=anchor,
            mode=mode,
        )
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottleneck_layer(64, 64, blocks=3)
        self.layer2 = bottleneck_layer(256, 128, blocks=4, stride=2)
        self.fc1 = nn.Linear(512, 1)
        initialise(self)
        share_of(pooling)  # refuses what is none
        self.pooling = pooling
        self.luma = luma
        if luma:
            read_luma(self.conv1)
        self.periodicity = Periodicity() if periodicity else None

    @property
    def architecture(self) -> dict[str, Any]:
        arguments: dict[str, Any] = {
            "residual": self.conv1.residual,
            "patch": self.conv1.patch,
            "anchor": self.conv1.anchor,
            "mode": self.conv1.mode,
        }
        if self.luma:
            arguments["luma"] = True
        if self.pooling != "mean":
            arguments["pooling"] = self.pooling
        if self.periodicity is not None:
            arguments["periodicity"] = True
        return arguments

    @property
    def classifier(self) -> nn.Linear:
        return self.fc1

    @property
    def feature_stride(self) -> int:
        return 8

    @property
    def tile_alignment(self) -> int:
        return math.lcm(self.feature_stride, self.conv1.patch)

    @property
    def feature_reach(self) -> int:
        """To either side of pixel 8i.

        Going back from feature i: the 3x3 convolutions of layer2 (three at stride 8, one that halves) and of layer1
        (three at stride 4) reach 2i - 10 .. 2i + 10 on the pooled map, pooling and conv1 the pixels 8i - 43 .. 8i + 43,
        and NPR the rest of those pixels' cells. On the Haar residual conv1 reads whole cells, the pixels
        8i - 44 .. 8i + 45.
        """
        return 43 + self.conv1.patch - 1 if self.conv1.residual == "npr" else 45

    def with_periodicity(self, periodicity: Periodicity, share: float) -> NPRDetector:
        """A copy of this detector to whose logit, times a share, that of the whole image is added.

        Raises:
            ValueError: this detector has such a part.
        """
        if self.periodicity is not None:
            raise ValueError("the detector reads periodicity already: add it to the network alone")
        model = NPRDetector(self.preprocessing, **self.architecture | {"periodicity": True})
        model.load_state_dict(self.state_dict(), strict=False)
        model.periodicity = copy.deepcopy(periodicity)
        model.recipe = self.recipe
        with torch.no_grad():
            model.fc1.weight.mul_(share)
            model.fc1.bias.mul_(share)
        return model.train(self.training)

    def stem(self, images: Tensor) -> Tensor:
        """uint8 or floating [N, 3, H, W] -> [N, 64, ceil(H // 2 / 2), ceil(W // 2 / 2)]."""
        return fused_stem(images, self.conv1, self.bn1)

    def whole(self, images: Tensor) -> Tensor | None:
        return None if self.periodicity is None else self.periodicity(images)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return chain(self.layer1, self.layer2)
