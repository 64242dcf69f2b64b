"""SAFE's network as its authors have it: NPR's cut ResNet-50 on a wavelet transform's diagonal band, resized back.

Sources: Li et al., "Improving Synthetic Image Detection Towards Generalization: An Image Transformation Perspective"
(SAFE), KDD 2025 (arXiv 2408.06741), Section 4, and its original implementation, which fixes the wavelet (bior1.3), the
border and the resize.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.data import Preprocessing
from detector.models.detector import Detector
from detector.models.images import unit_range
from detector.models.resnet import bottleneck_layer, initialise


class SAFEDetector(Detector):
    """Real or generated, from the resized diagonal band: 1,437,761 parameters, one logit.

    It is here for the original implementation's checkpoints. Another network than ``NPRDetector(residual="haar")``,
    which reads the same band on its own grid, is fused into one kernel and goes through large images in tiles: here
    the band has two more rows and columns than the image has cells, so the resize shifts it by a part of a pixel that
    depends on the place and on the image's size. Large images go through whole.

    The state dict is the original's (conv1, bn1, layer1, layer2, fc1) but for fc1, whose two outputs are one logit
    here, see :func:`one_logit`.

    Args:
        preprocessing: how images are cropped before the model, and the constants (std, scale) of the band; mean
            cancels. By default as the paper tests: centre crops of 256 pixels, not normalised. Crops differ from the
            original's in two cases: it pads images smaller than the crop with black, where here they are tiled; and
            it rounds halves of a pixel to even, so that its crop is one pixel further where a side exceeds 256 by 3,
            7, 11, ...

    Shape: uint8, or floating in [0, 1], [N, 3, H, W] -> logits [N, 1]; positive means generated.
    """

    original_preprocessing = Preprocessing(
        policy="centre", crop=256, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), scale=1.0
    )

    gain: Tensor

    def __init__(self, preprocessing: Preprocessing | None = None) -> None:
        super().__init__()
        self.preprocessing = preprocessing or self.original_preprocessing
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = bottleneck_layer(64, 64, blocks=3)
        self.layer2 = bottleneck_layer(256, 128, blocks=4, stride=2)
        self.fc1 = nn.Linear(512, 1)
        initialise(self)
        gain = self.preprocessing.scale / torch.tensor(self.preprocessing.std).view(3, 1, 1)
        self.register_buffer("gain", gain, persistent=False)  # not in the state dict, which is the original's

    @property
    def architecture(self) -> dict[str, Any]:
        return {}

    @property
    def classifier(self) -> nn.Linear:
        return self.fc1

    @property
    def feature_stride(self) -> int:
        return 8

    @property
    def feature_reach(self) -> int:
        """More than any image has: features depend on the image's size, so no part of it gives them."""
        return 2**31

    def stem(self, images: Tensor) -> Tensor:
        """[N, 3, H, W] -> [N, 64, ceil(H / 4), ceil(W / 4)]."""
        x = unit_range(images, self.conv1.weight.dtype)
        band = diagonal_band(x) * self.gain
        # Antialiased as in the original, which matters for sides below 4 alone: those the band exceeds.
        x = F.interpolate(band, size=x.shape[2:], mode="bilinear", align_corners=False, antialias=True)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)

    @property
    def blocks(self) -> Iterable[nn.Module]:
        return chain(self.layer1, self.layer2)


def diagonal_band(images: Tensor) -> Tensor:
    """The diagonal band (HH) of bior1.3's transform, of images that are mirrored at their borders.

    Its high-pass filter has two taps that are not 0, -1/sqrt(2) and 1/sqrt(2), so a value is (a - b - c + d) / 2 of a
    2x2 cell [[a, b], [c, d]]. The filter's length, six, shows at the borders: one cell more at the top and left, and
    one at the bottom and right, all of mirrored pixels (the border pixel twice).

    Args:
        images: floating [N, C, H, W].

    Returns:
        [N, C, (H + 5) // 2, (W + 5) // 2]; the cell (i, j) has its pixel a at (2i - 2, 2j - 2).
    """
    return _differences(_differences(images, 3), 2) / 2


def _differences(x: Tensor, dim: int) -> Tensor:
    """First pixel minus second, of the pairs along a dimension and of one mirrored pair at either end."""
    size = x.shape[dim]
    positions = torch.arange(-2, (size + 5) // 2 * 2 - 2, device=x.device) % (2 * size)
    positions = torch.minimum(positions, 2 * size - 1 - positions)
    return x.index_select(dim, positions[::2]) - x.index_select(dim, positions[1::2])


def has_two_outputs(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict of NPR's names ends in SAFE's two outputs, real and generated."""
    return "fc1.weight" in tensors and tensors["fc1.weight"].shape[:1] == (2,)


def one_logit(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original's state dict as :class:`SAFEDetector` has it: softmax of two outputs is the sigmoid of their
    difference, generated minus real."""
    return {
        name: value[1:] - value[:1] if name in ("fc1.weight", "fc1.bias") and value.shape[:1] == (2,) else value
        for name, value in tensors.items()
    }
