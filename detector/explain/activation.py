"""Where in an image a detector finds its evidence: class activation map and saliency, both exact.

The logit is linear in the mean of the feature map, so it is a sum of one term a feature, the bias, and what the whole
image adds: the class activation map (Zhou et al., CVPR 2016), no approximation. Saliency (Simonyan et al., ICLR
workshop 2014) is the gradient of the logit with respect to the pixels. Both are computed window by window, in bounded
memory.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from detector.models import Detector
from detector.models.inference import Window, whole_of, windows
from npr_kernels import NPRFallbackWarning

MAX_PIXELS = 2**20
"""Most pixels that go through the model at once. Gradients need about 2 kB for each."""


@dataclass(frozen=True)
class Explanation:
    """A logit, taken apart.

    Attributes:
        logit: positive means generated; equal to that of :mod:`detector.models.inference` but for rounding.
        bias: the classifier's.
        whole: what the whole image adds, see :meth:`detector.models.Detector.whole`.
        activation: float64 [h, w], the term of each feature; they sum to logit - bias - whole.
        saliency: [H, W], in the model's dtype: the Euclidean norm over the channels of the gradient of logit - whole
            with respect to the pixels, on their scale 0..1.
        feature_stride: pixels between neighbouring features.
    """

    logit: float
    bias: float
    whole: float
    activation: Tensor
    saliency: Tensor
    feature_stride: int

    @property
    def score(self) -> float:
        """The sigmoid of the logit, in 0..1."""
        return 1 / (1 + math.exp(-self.logit)) if self.logit >= 0 else 1 - 1 / (1 + math.exp(self.logit))

    @property
    def local_logits(self) -> Tensor:
        """float64 [h, w], the logit of each feature by itself, with what the whole image adds; their mean is the logit
        of the image."""
        return self.activation * self.activation.numel() + self.bias + self.whole


def local_logits(model: Detector, image: Tensor, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The logit of each feature by itself, with what the whole image adds, without a gradient: the map alone of what
    :func:`explain` finds.

    Args:
        model: in evaluation mode, of any pooling. Where that is the mean, the logits' mean is the image's logit.
        image: uint8 [3, H, W], as the model's preprocessing gives it.
        max_pixels: of one pass through the model, where its margins allow; the result does not depend on it but for
            rounding.

    Returns:
        float64 [h, w] on the CPU, one for each feature_stride pixels of the model.

    Raises:
        TypeError, ValueError: wrong images.
    """
    _check_image(image)
    model = model.for_inference()
    device = next(model.parameters()).device
    rows: dict[int, list[Tensor]] = {}
    with torch.inference_mode():
        for window in windows(model, image.shape[1], image.shape[2], max_pixels):
            features = model.features(image[None, :, window.rows, window.columns].to(device))
            features = features[:, :, window.feature_rows, window.feature_columns]
            logits = model.local_logits(features).double().view(features.shape[2:]).cpu()
            rows.setdefault(_feature_row(model, window), []).append(logits)
        return torch.cat([torch.cat(parts, dim=1) for parts in rows.values()]) + whole_of(model, image)


def explain(model: Detector, image: Tensor, *, max_pixels: int = MAX_PIXELS) -> Explanation:
    """Takes the logit of an image apart.

    Args:
        model: in evaluation mode afterwards.
        image: uint8 [3, H, W], as the model's preprocessing gives it.
        max_pixels: of one pass through the model, where its margins allow; the result does not depend on it.

    Raises:
        TypeError, ValueError: wrong images, or a model whose logit is not the mean of its local logits.

    Example:
        >>> from detector.data import decode
        >>> from detector.explain import explain
        >>> from detector.models import Detector
        >>> detector = Detector.from_pretrained()
        >>> image = detector.preprocessing.test_view(decode("photo.jpg"))
        >>> found = explain(detector, image)
        >>> abs(found.activation.sum().item() + found.bias + found.whole - found.logit) < 1e-9
        True
        >>> found.saliency.shape == image.shape[1:]
        True
    """
    if model.pooling != "mean":
        raise ValueError(f"only logits that are means can be taken apart, the detector's pooling is {model.pooling!r}")
    _check_image(image)
    model.eval()
    classifier = model.classifier
    weight = classifier.weight.detach().view(1, -1, 1, 1)
    height, width = image.shape[1:]
    gradient = torch.zeros(3, height, width, dtype=weight.dtype, device=weight.device)
    rows: dict[int, list[Tensor]] = {}
    for window in windows(model, height, width, max_pixels):
        part = image[None, :, window.rows, window.columns].to(weight.device, weight.dtype) / 255
        part.requires_grad_()
        with torch.enable_grad(), warnings.catch_warnings():
            # Gradients to the image are the reference's; there is no faster way to fall back from.
            warnings.simplefilter("ignore", NPRFallbackWarning)
            features = model.features(part)[:, :, window.feature_rows, window.feature_columns]
            terms = (features * weight).sum(dim=1)[0]
            (of_part,) = torch.autograd.grad(terms.sum(), part)
        # A pixel lies in several windows, and acts on the features of each.
        gradient[:, window.rows, window.columns] += of_part[0]
        rows.setdefault(_feature_row(model, window), []).append(terms.detach().double())
    activation = torch.cat([torch.cat(parts, dim=1) for parts in rows.values()])
    count = activation.numel()
    activation = (activation / count).cpu()
    bias = classifier.bias.item()
    saliency = (gradient / count).square().sum(dim=0).sqrt().cpu()
    with torch.inference_mode():
        whole = whole_of(model, image)
    logit = activation.sum().item() + bias + whole
    return Explanation(logit, bias, whole, activation, saliency, model.feature_stride)


def _check_image(image: Tensor) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a Tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8:
        raise TypeError(f"image must be uint8, got {image.dtype}")
    if image.ndim != 3 or image.shape[0] != 3 or min(image.shape) < 2:
        raise ValueError(f"image must be [3, H, W] with H and W at least 2, got {list(image.shape)}")


def _feature_row(model: Detector, window: Window) -> int:
    """Of the whole image's feature map, the first that the window gives."""
    return window.rows.start // model.feature_stride + window.feature_rows.start
