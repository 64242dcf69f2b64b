"""The NPR detector as plain convolutions: batch norms, normalisation and residual folded into the weights, in float64.

What an inference engine computes is a chain of convolutions with biases. Two forms of the first one are here, for
engines that take the residual themselves (:func:`stem_on_residual`) and for those that know nothing of it
(:func:`stem_on_pixels`). All functions are pure; rounding to an engine's own dtype is the engine's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.models.npr_detector import NPRDetector
from detector.models.plain_periodicity import PlainPeriodicity, plain_periodicity
from detector.models.pooling import share_of
from detector.models.resnet import Bottleneck
from npr_kernels.bottleneck import fold_batch_norm
from npr_kernels.residuals import HAAR, RESIDUALS


@dataclass(frozen=True)
class Convolution:
    """A convolution with a bias, of zeros around its input.

    Attributes:
        weight: float64 [O, C, K, K].
        bias: float64 [O].
        stride: in both directions.
        before, after: rows of zeros above the input and below it; as many columns to its left and right.
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    before: int = 0
    after: int = 0


@dataclass(frozen=True)
class Block:
    """relu(expand(relu(spatial(relu(reduce(x))))) + shortcut(x)); without a shortcut, x itself is added.

    `spatial` alone is 3x3; it and the shortcut have the block's stride.
    """

    reduce: Convolution
    spatial: Convolution
    expand: Convolution
    shortcut: Convolution | None


@dataclass(frozen=True)
class PlainDetector:
    """A detector as an engine runs it: stem, ReLU, 3x3 max-pooling of stride 2 and padding 1, blocks, classifier.

    Attributes:
        stem: on raw pixels, see :func:`stem_on_pixels`; its weights are those of :func:`balanced`.
        blocks: named as in the state dict, in their order: layer1.0 to layer2.3.
        weight: float64 [C], from a feature's channels to its local logit.
        bias: float64 [], likewise.
        share: of the local logits, the largest, whose mean is the logit; 1 for mean pooling.
        whole: what is added to the logit; None in detectors without.
    """

    stem: Convolution
    blocks: dict[str, Block]
    weight: Tensor
    bias: Tensor
    share: Fraction
    whole: PlainPeriodicity | None


def fold(model: NPRDetector) -> PlainDetector:
    """The detector as plain convolutions on raw pixels.

    Raises:
        ValueError: its residual is none that a plain convolution computes, see :func:`stem_on_pixels`.
    """
    blocks = {
        f"{name}.{number}": _fold_block(cast(Bottleneck, block))
        for name, layer in (("layer1", model.layer1), ("layer2", model.layer2))
        for number, block in enumerate(layer)
    }
    weight, bias = (_exact(value) for value in (model.fc1.weight, model.fc1.bias))
    stem = stem_on_pixels(model)
    stem = replace(stem, weight=balanced(stem.weight))
    whole = None if model.periodicity is None else plain_periodicity(model.periodicity)
    return PlainDetector(stem, blocks, weight[0], bias[0], share_of(model.pooling), whole)


def stem_on_residual(model: NPRDetector) -> Convolution:
    """The stem's convolution on the integers that the residual of uint8 images is.

    Of NPR :func:`npr_kernels.reference.npr_residual` (for mode "mean" no integers), of the Haar band
    :func:`npr_kernels.reference.haar_residual`, each image channel once a map, in the order of
    :data:`npr_kernels.residuals.RESIDUALS`. 1/255, std, scale, the map's gain and batch norm are in the weights. The
    mean cancels. The stride is the NPR map's, whose positions are pixels; on the Haar band, whose positions are cells,
    it is 1.

    Returns:
        weight float64 [64, 3 maps, 3, 3], padding 1.
    """
    conv = model.conv1
    std = torch.tensor(model.preprocessing.std if conv.std is None else conv.std, dtype=torch.float64)
    gains = torch.tensor([each.gain for each in RESIDUALS[conv.residual]], dtype=torch.float64)
    per_channel = (gains[:, None] * conv.scale / (255 * std)).flatten()
    weight, bias = fold_batch_norm(_exact(conv.weight) * per_channel.view(-1, 1, 1), model.bn1)
    return Convolution(weight, bias, stride=2, before=1, after=1)


def stem_on_pixels(model: NPRDetector) -> Convolution:
    """The stem's convolution on raw uint8 pixels: residual, normalisation and batch norm are in the weights.

    A residual that is linear in the pixels of its cell, the same in every cell, is a part of the convolution that
    follows it if that steps from cell to cell. The window then covers whole cells: of NPR, of which conv1 reads the
    rows -1..1 around a cell's first, the cells -1 and 0, 4x4 pixels; of the Haar band the cells -1, 0 and 1, 6x6.

    Padding pads the residual with zeros, so what stands around the image must have the residual zero, which cells of
    zeros have. Of odd sizes the last row and column are no part of a cell. NPR's window, with nothing after the image,
    never reaches them; the Haar band's would, so images are to be cropped to even sizes for it (`after` above 0).

    Returns:
        weight float64 [64, 3, 4, 4] with 2 before and 0 after, or [64, 3, 6, 6] with 2 before and 2 after; stride 2.

    Raises:
        ValueError: the residual is not linear (mode "max"), or its cells (patch above 2) are larger than the steps,
            which then see a cell from different places.
    """
    conv = model.conv1
    if conv.mode == "max":
        raise ValueError("mode 'max' is no plain convolution: a cell's maximum is not linear in its pixels")
    if conv.patch != 2:
        raise ValueError(
            f"patch {conv.patch} is no plain convolution: conv1 steps by 2 pixels and meets its cells at different "
            "places; patch 2 is one"
        )
    on_residual = stem_on_residual(model)
    maps = RESIDUALS[conv.residual]
    after = 2 if HAAR in maps else 0
    parts = []
    for each, weight in zip(maps, on_residual.weight.chunk(len(maps), dim=1), strict=True):
        if each is HAAR:
            parts.append(_through_haar(weight))
        else:
            parts.append(F.pad(_through_npr(weight, conv.anchor, conv.mode), (0, after, 0, after)))
    return Convolution(torch.stack(parts).sum(dim=0), on_residual.bias, stride=2, before=2, after=after)


def balanced(weight: Tensor) -> Tensor:
    """Weights on raw pixels, rounded to float32 so that those of each cell still sum to zero.

    Rounded each by itself, they leave a sum of some 1e-9, which the grey of the image multiplies, everywhere and in
    the same direction: logits are then off by five times as much. So all weights of a cell are multiples of one unit,
    twice float32's step at the largest of them, and the largest takes what rounding left.

    Args:
        weight: float64 [O, C, K, K], K even, of cells that sum to zero, as :func:`stem_on_pixels` gives them.

    Returns:
        float64 of the same shape: numbers that float32 has, within 3 units of the weights.
    """
    cells = weight.unfold(2, 2, 2).unfold(3, 2, 2)  # [O, C, cell, cell, row, column]
    pixels = cells.flatten(4)
    largest = pixels.abs().amax(dim=4, keepdim=True).clamp(min=2.0**-100)
    unit = 2.0 ** (largest.log2().ceil() - 23)
    counts = (pixels / unit).round()
    place = counts.abs().argmax(dim=4, keepdim=True)
    counts = counts.scatter_add(4, place, -counts.sum(dim=4, keepdim=True))
    return (counts * unit).view(cells.shape).transpose(3, 4).flatten(4, 5).flatten(2, 3)


def _through_npr(weight: Tensor, anchor: int, mode: str) -> Tensor:
    """From weights of the residual's rows and columns -1..1 [O, C, 3, 3] to those of the pixels -2..1 [O, C, 4, 4].

    What is subtracted from each pixel of a cell is subtracted as often as the cell has weights.
    """
    cells = F.pad(weight, (1, 0, 1, 0)).unflatten(3, (2, 2)).unflatten(2, (2, 2))  # [O, C, cell, row, cell, column]
    total = cells.sum(dim=(3, 5), keepdim=True)
    share = torch.full((2, 2), 0.25, dtype=weight.dtype)
    if mode == "pixel":
        share = F.one_hot(torch.tensor(anchor), 4).to(weight.dtype).view(2, 2)
    return (cells - total * share.view(1, 1, 1, 2, 1, 2)).flatten(4, 5).flatten(2, 3)


def _through_haar(weight: Tensor) -> Tensor:
    """From weights of the cells -1..1 [O, C, 3, 3] to those of the pixels -2..3 [O, C, 6, 6]."""
    signs = torch.tensor([[1, -1], [-1, 1]], dtype=weight.dtype)
    return (weight[:, :, :, None, :, None] * signs.view(1, 1, 1, 2, 1, 2)).flatten(4, 5).flatten(2, 3)


def _fold_block(block: Bottleneck) -> Block:
    shortcut = None
    if block.downsample is not None:
        conv, norm = cast(nn.Sequential, block.downsample)
        shortcut = _fold(conv, norm)
    return Block(_fold(block.conv1, block.bn1), _fold(block.conv2, block.bn2), _fold(block.conv3, block.bn3), shortcut)


def _fold(conv: nn.Module, norm: nn.Module) -> Convolution:
    conv, norm = cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm)
    padding = cast(tuple[int, int], conv.padding)[0]
    return Convolution(*fold_batch_norm(conv.weight, norm), conv.stride[0], padding, padding)


def _exact(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, copy=True)
