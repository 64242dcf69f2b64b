"""Detectors whose residual blocks compute on 8-bit integers; the stem and the classifier stay exact.

A map is counted in steps of its channels' own, the 255th part of the largest value that the channel has on the images
that the ranges are taken from. Those of a checkpoint that brings none are taken from scenes drawn here, always the
same, so that a score depends on its image and on the detector alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
from torch import Tensor

from detector.models.detector import Detector
from detector.models.folded import CHUNK_PIXELS, FoldedDetector
from npr_kernels.bottleneck import FoldedBottleneck
from npr_kernels.quantised import LARGEST, QuantisedBottleneck, Steps, quantise

SCENES = 16
"""Images that ranges are taken from by default."""

_SIDE = 256
_GAMMA = 2.2

Ranges = list[list[float]]
"""Largest values: of the stem's map, and of each block's three (reduced, middle, result, whose last is not used), one
for each channel."""


class QuantisedDetector(FoldedDetector):
    """A detector whose blocks are :class:`npr_kernels.quantised.QuantisedBottleneck`. An image's features do not
    depend, bit for bit, on those that come with it or on the number of threads.

    Args:
        model: in evaluation mode, float32, on the CPU, with residual blocks.
        ranges: of its maps, see :func:`find_ranges`.

    Raises:
        ValueError: the ranges are not those of such a model.
    """

    precision = "int8"
    chunk_pixels = 4 * CHUNK_PIXELS  # its maps take a quarter of the bytes

    def __init__(self, model: Detector, ranges: Ranges) -> None:
        super().__init__(model)
        folded = self._blocks
        maps = _check_ranges(ranges, folded)
        steps = [largest / LARGEST for largest in maps]
        self._step = steps[0]
        self._quantised = []
        for number, block in enumerate(folded):
            x, reduced, middle, out = steps[3 * number : 3 * number + 4]
            last = number + 1 == len(folded)
            self._quantised.append(QuantisedBottleneck.of(block, Steps(x, reduced, middle, None if last else out)))
        self.ranges = ranges

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        x = quantise(self.model.stem(images), self._step)
        for block in self._quantised:
            x = block(x)
        return x

    def _kept_features(self, images: Tensor) -> Tensor:
        x = self.model.stem(images)
        x = quantise(x, self._step, self._maps.take(1, tuple(x.shape), torch.uint8))
        for number, block in enumerate(self._quantised):
            x = block(x, self._maps.take(number % 2, block.shape(x), block.dtype))
        return x


def quantise_detector(model: Detector) -> QuantisedDetector:
    """With the model's own ranges or, where it has none, with those of :func:`scenes`.

    Raises:
        ValueError: the model is in training mode, not float32 on the CPU, or has no residual blocks.
    """
    weight = next(model.parameters())
    if model.training:
        raise ValueError("a model in training mode cannot be quantised for inference: call eval() first")
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not any(True for _ in model.blocks):
        raise ValueError(
            f"int8 takes a detector with residual blocks in float32 on the CPU, got {type(model).__name__} in "
            f"{str(weight.dtype).removeprefix('torch.')} on {weight.device}"
        )
    return QuantisedDetector(model, find_ranges(model, scenes()) if model.ranges is None else model.ranges)


@torch.no_grad()
def find_ranges(model: Detector, images: Iterable[Tensor]) -> Ranges:
    """The largest values of a model's maps, to four digits.

    Args:
        model: in evaluation mode.
        images: at least one, uint8 [3, H, W], of the size at which they are scored.

    Raises:
        ValueError: there are no images.
    """
    blocks = [FoldedBottleneck.of(block) for block in model.blocks]
    largest: list[Tensor] | None = None
    for image in images:
        x = model.stem(image[None].contiguous(memory_format=torch.channels_last))
        maps = [x]
        for block in blocks:
            maps += block.maps(maps[-1])
        found = [each.amax(dim=(0, 2, 3)) for each in maps]
        largest = found if largest is None else list(map(torch.maximum, largest, found))
    if largest is None:
        raise ValueError("ranges are taken from at least one image, got none")
    return [[float(f"{value:.4g}") for value in each.tolist()] for each in largest]


@cache
def scenes() -> list[Tensor]:
    """Seeded dead leaves, uint8 [3, 256, 256]."""
    from detector.synth.scenes import dead_leaves

    drawn = [dead_leaves(_SIDE, _SIDE, np.random.default_rng(seed)) for seed in range(SCENES)]
    coded = [(np.clip(light, 0, 1) ** (1 / _GAMMA) * 255).round().astype(np.uint8) for light in drawn]
    return [torch.from_numpy(each).permute(2, 0, 1) for each in coded]


def _check_ranges(ranges: Ranges, blocks: list[FoldedBottleneck]) -> list[Tensor]:
    """As vectors, positive: a channel that is 0 on all images gets the smallest of its map that is not."""
    wanted = [blocks[0].weights[0].shape[1], *(weight.shape[0] for block in blocks for weight in block.weights[:3])]
    maps = [torch.tensor(each, dtype=torch.float64) for each in ranges]
    if [len(each) for each in maps] != wanted:
        raise ValueError(
            f"ranges must be of {len(wanted)} maps with as many channels as the model's, got {len(maps)} maps"
        )
    if not all(bool(((each >= 0) & each.isfinite()).all()) for each in maps):
        raise ValueError("ranges must be finite and not negative")
    return [torch.where(each > 0, each, each[each > 0].min() if bool((each > 0).any()) else 1.0) for each in maps]
