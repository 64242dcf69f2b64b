"""What every detector is: a network whose logit is linear in the mean of its feature map; some add one of the image."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from detector.box import DEFAULT
from detector.data import Preprocessing
from detector.models.pooling import mean_of_largest, share_of
from detector.verdicts import THRESHOLD

if TYPE_CHECKING:
    from detector.models.scoring import AnImage


class Detector(nn.Module):
    """A convolutional network, global average pooling and one linear logit, with the preprocessing it was trained for.

    That form is what tiled inference and class activation maps rest on. As the logit is linear, it is the mean of the
    local logits, those of each feature by itself; `pooling` may be of the largest of them alone. A detector may add a
    logit of the whole image to it, see :meth:`whole`.

    Attributes:
        preprocessing: how images are resized and cropped before the model, and the constants it normalises with.
        original_preprocessing: of the original implementation's checkpoints, which bring none.
        pooling: "mean" or "top-K%", see :func:`detector.models.pooling.share_of`.
        threshold: the score, in (0, 1), above which an image is called generated. Written to checkpoints.
        calibration: what the threshold was certified by, as :mod:`detector.evaluation.calibration` records it,
            JSON-able; None for a detector that was not calibrated. Written to checkpoints.
        recipe: of the training, as the checkpoint tells it; None where it does not.
        ranges: of the maps, for int8, see :func:`detector.models.quantised.find_ranges`; None for those of images drawn
            for it. Written to checkpoints.
    """

    preprocessing: Preprocessing
    original_preprocessing: ClassVar[Preprocessing]
    pooling: str = "mean"
    threshold: float = THRESHOLD
    calibration: dict[str, Any] | None = None
    recipe: dict[str, Any] | None = None
    ranges: list[list[float]] | None = None

    @staticmethod
    def from_pretrained(name: str | os.PathLike[str] = DEFAULT, device: torch.device | str = "cpu") -> Detector:
        """A trained detector, in evaluation mode: the one in the package, or a checkpoint's.

        Raises:
            OSError, CheckpointError: see :func:`detector.models.load_checkpoint`.

        Example:
            >>> from detector.models import Detector
            >>> detector = Detector.from_pretrained()
            >>> detector.preprocessing.policy, detector.training
            ('native', False)
        """
        from detector.models.checkpoint import load_checkpoint  # which knows the models, which know this class

        return load_checkpoint(name, device)

    def score(self, images: AnImage | Iterable[AnImage], *, batch_size: int = 16, workers: int = 0) -> float | Tensor:
        """How likely images are generated, treated as the detector's preprocessing says: from 0 (real) to 1 (fake).

        On the CPU these are the scores of ``npr detect --exact``, bit for bit, whatever is scored together and in
        whichever form an image comes. The detector is in evaluation mode afterwards. Each call takes half a
        second to make it ready for inference; ``detector.for_inference().score`` has done that.

        Args:
            images: one image or several, drawn as they are needed; 8-bit RGB where not read from a file. An image is a
                path; a Pillow image, which is turned upright and laid over white as files are; a NumPy array uint8
                [H, W, 3]; or a tensor uint8 [3, H, W], on any device. Several are an iterable of these, an array
                [N, H, W, 3] or a tensor [N, 3, H, W]. H and W are at least 2.
            batch_size: on a GPU, images of one size that are scored together.
            workers: threads that read and decode ahead.

        Returns:
            A float for one image; for several float64 [N] on the CPU, in their order.

        Raises:
            ImageError: a file or a Pillow image cannot be decoded, see :func:`detector.data.decode`; it names it.
            TypeError, ValueError: an image of another kind, dtype or shape, named by its place.

        Example:
            >>> import numpy as np
            >>> from PIL import Image
            >>> from detector.models import Detector
            >>> detector = Detector.from_pretrained().for_inference()
            >>> score = detector.score("photo.jpg")
            >>> bool(0 <= score <= 1)
            True
            >>> detector.score(["photo.jpg", Image.open("photo.jpg"), np.zeros((64, 96, 3), np.uint8)]).shape
            torch.Size([3])
        """
        from detector.models.scoring import score_images  # which knows this class

        return score_images(self, images, batch_size=batch_size, workers=workers)

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

    def stem(self, images: Tensor) -> Tensor:
        """What the first residual block reads: [N, 3, H, W] -> [N, 64, h, w]."""
        raise NotImplementedError

    @property
    def blocks(self) -> Iterable[nn.Module]:
        """The residual blocks, in their order; none in a detector of another kind, which brings features of its own."""
        return ()

    def features(self, images: Tensor) -> Tensor:
        """What is averaged and classified: [N, 3, H, W] -> [N, C, h, w]."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return x

    def for_inference(self, precision: str | None = None) -> Detector:
        """The same detector, faster and without gradients, its batch norms folded into fused residual blocks: on the
        CPU see :class:`detector.models.folded.FoldedDetector`, on CUDA devices
        :class:`detector.models.on_cuda.CudaDetector`; elsewhere, or where it is not float32, this model itself.

        It keeps the weights of the moment: call it again after training on.

        Args:
            precision: "float32"; or, with logits that are near, "bfloat16" on CUDA devices, and on the CPU "int8" for
                blocks that compute on 8-bit integers, see :mod:`detector.models.quantised`; by default what the
                detector has.

        Raises:
            ValueError: in training mode, where batch norms depend on the batch and cannot be folded; another precision;
                one of another device, or for another dtype than float32.
        """
        from detector.models.folded import fold_detector  # which knows this class

        return fold_detector(self, precision)

    def classify(self, mean_features: Tensor) -> Tensor:
        """Logits [..., 1] of features [..., C], or of their means."""
        return self.classifier(mean_features)

    def local_logits(self, features: Tensor) -> Tensor:
        """Of every feature by itself: [N, C, h, w] -> [N, h * w]."""
        return self.classify(features.flatten(2).transpose(1, 2)).squeeze(2)

    def forward(self, images: Tensor) -> Tensor:
        logits, whole = self.pool(self.features(images)), self.whole(images)
        return logits if whole is None else logits + whole

    def whole(self, images: Tensor) -> Tensor | None:
        """What the whole image adds to the logit, that belongs to no place in it: [N, 3, H, W] -> [N, 1]; None in
        detectors that have no such part."""
        return None

    def pool(self, features: Tensor) -> Tensor:
        """Logits [N, 1] of feature maps [N, C, h, w]."""
        if self.pooling == "mean":
            return self.classify(features.mean(dim=(2, 3)))
        return mean_of_largest(self.local_logits(features), share_of(self.pooling))
