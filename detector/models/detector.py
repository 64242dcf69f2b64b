"""What every detector is: a network whose logit is linear in the mean of its feature map."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from detector.data import Preprocessing


class Detector(nn.Module):
    """A convolutional network, global average pooling and one linear logit, with the preprocessing it was trained for.

    That form is what tiled inference and class activation maps rest on.

    Attributes:
        preprocessing: how images are resized and cropped before the model, and the constants it normalises with.
        original_preprocessing: of the original implementation's checkpoints, which bring none.
    """

    preprocessing: Preprocessing
    original_preprocessing: ClassVar[Preprocessing]

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments, beside the preprocessing, that make a model of the same architecture."""
        raise NotImplementedError

    @property
    def classifier(self) -> nn.Linear:
        """From a feature's channels to the logit."""
        raise NotImplementedError

    @property
    def feature_stride(self) -> int:
        """Pixels between neighbouring features."""
        raise NotImplementedError

    @property
    def feature_reach(self) -> int:
        """How many pixels around pixel feature_stride * i the feature i depends on, to either side."""
        raise NotImplementedError

    @property
    def tile_alignment(self) -> int:
        """Images cut at multiples of it have the features of the uncut image, wherever the cut is out of reach."""
        return self.feature_stride

    def features(self, images: Tensor) -> Tensor:
        """What is averaged and classified: [N, 3, H, W] -> [N, C, h, w]."""
        raise NotImplementedError

    def classify(self, mean_features: Tensor) -> Tensor:
        """Logits [N, 1] of the features' spatial means [N, C]."""
        return self.classifier(mean_features)

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images).mean(dim=(2, 3)))
