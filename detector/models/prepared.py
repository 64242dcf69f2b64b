"""What detectors that were made ready for inference have in common."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from detector.models.detector import Detector


class PreparedDetector(Detector):
    """Another detector, made faster: it is what the other is, and computes its features in a way of its own.

    Args:
        model: in evaluation mode. Its stem, its classifier and what it adds of the whole image are shared.

    Attributes:
        precision: of its residual blocks, one of :data:`detector.verdicts.PRECISIONS`.
    """

    precision: str

    def __init__(self, model: Detector) -> None:
        super().__init__()
        self.model = model
        self.preprocessing, self.pooling = model.preprocessing, model.pooling
        self.threshold, self.calibration = model.threshold, model.calibration
        self.recipe, self.ranges = model.recipe, model.ranges
        self.eval()

    @property
    def architecture(self) -> dict[str, Any]:
        return self.model.architecture

    @property
    def classifier(self) -> nn.Linear:
        return self.model.classifier

    @property
    def feature_stride(self) -> int:
        return self.model.feature_stride

    @property
    def feature_reach(self) -> int:
        return self.model.feature_reach

    @property
    def tile_alignment(self) -> int:
        return self.model.tile_alignment

    def classify(self, mean_features: Tensor) -> Tensor:
        return self.model.classify(mean_features)

    def whole(self, images: Tensor) -> Tensor | None:
        return self.model.whole(images)
