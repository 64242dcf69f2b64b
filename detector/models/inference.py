"""Logits of images of any size and number, in bounded memory.

Small images of one size go through the model together. A large image goes through in tiles, and gives the same logit as
uncut: a feature depends on a bounded neighbourhood, so every tile is read with a margin of that width, the features of
the margin are dropped, and what is left are the uncut image's own features. Their mean, or what each gives by itself,
is all that the logit depends on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from detector.models.detector import Detector
from detector.models.pooling import mean_of_largest, share_of

MAX_PIXELS = 2**20
"""Most pixels that go through the model at once. The network needs about 400 bytes for each."""

MAX_WAITING_PIXELS = 2**25
"""Most pixels (3 bytes each) that wait for others of their size before they are scored without them."""

Key = TypeVar("Key")


@torch.inference_mode()
def logits(model: Detector, images: Tensor, *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """The model's logits, however large the images.

    Args:
        model: in evaluation mode.
        images: uint8, or floating in [0, 1], [N, 3, H, W], on any device; moved to the model's piece by piece.
        max_pixels: of one pass through the model.

    Returns:
        float64 [N] on the CPU. Those of images cut into tiles differ from the uncut ones' by rounding alone.
    """
    _, _, height, width = images.shape
    if height * width > max_pixels:
        rows = [_tiled_logit(model, image[None], max_pixels) for image in images]
        return torch.stack(rows) if rows else torch.empty(0, dtype=torch.float64)
    device = next(model.parameters()).device
    batch = max(1, max_pixels // (height * width)) if height * width else 1
    parts = [model(part.to(device)).double().flatten().cpu() for part in images.split(batch)]
    return torch.cat(parts)


def score_stream(model: Detector, views: Iterable[tuple[Key, Tensor]], batch_size: int) -> Iterator[tuple[Key, float]]:
    """Scores images as they come, those of one size together.

    Args:
        model: in evaluation mode.
        views: (key, uint8 [3, H, W]).
        batch_size: images of one size that are gathered before they are scored.

    Yields:
        (key, score), the sigmoid of the logit in 0..1, in the order in which batches fill.
    """
    waiting: dict[torch.Size, list[tuple[Key, Tensor]]] = {}
    waiting_pixels = 0
    for key, image in views:
        pixels = image.shape[1] * image.shape[2]
        group = waiting.setdefault(image.shape, [])
        group.append((key, image))
        waiting_pixels += pixels
        if len(group) >= batch_size or len(group) * pixels >= MAX_PIXELS:
            del waiting[image.shape]
            waiting_pixels -= len(group) * pixels
            yield from _scores(model, group)
        elif waiting_pixels > MAX_WAITING_PIXELS:
            groups, waiting, waiting_pixels = list(waiting.values()), {}, 0
            for group in groups:
                yield from _scores(model, group)
    for group in waiting.values():
        yield from _scores(model, group)


def _scores(model: Detector, group: list[tuple[Key, Tensor]]) -> Iterator[tuple[Key, float]]:
    keys, images = zip(*group, strict=True)
    # A large image comes alone and is not copied; several are stacked as channels_last, the layout they have.
    stacked = images[0][None] if len(images) == 1 else torch.stack([image.permute(1, 2, 0) for image in images])
    if len(images) > 1:
        stacked = stacked.permute(0, 3, 1, 2)
    return zip(keys, logits(model, stacked).sigmoid().tolist(), strict=True)


class Window(NamedTuple):
    """A part of an image that gives some of the whole image's features.

    Attributes:
        rows, columns: of the image, those features' pixels with a margin around them.
        feature_rows, feature_columns: of the part's feature map, without the margin's.
    """

    rows: slice
    columns: slice
    feature_rows: slice
    feature_columns: slice


def windows(model: Detector, height: int, width: int, max_pixels: int) -> Iterator[Window]:
    """Windows whose features, row by row, are the feature map of an image of that size.

    Args:
        max_pixels: of one window. Larger ones are given where less would be more margin than core.
    """
    step = model.tile_alignment
    margin = math.ceil(model.feature_reach / step) * step
    core = max(margin, (math.isqrt(max_pixels) - 2 * margin) // step * step)
    if height * width <= max_pixels:
        core = math.ceil(max(height, width) / step) * step

    def spans(size: int) -> Iterator[tuple[slice, slice]]:
        for start in range(0, size, core):
            # At the image's own border there is no margin: the network's padding is the true one.
            before = min(margin, start)
            first = before // model.feature_stride
            kept = slice(first, first + core // model.feature_stride)
            yield slice(start - before, min(start + core + margin, size)), kept

    for rows, feature_rows in spans(height):
        for columns, feature_columns in spans(width):
            yield Window(rows, columns, feature_rows, feature_columns)


def _tiled_logit(model: Detector, image: Tensor, max_pixels: int) -> Tensor:
    """float64 scalar, the logit of [1, 3, H, W]."""
    parameter = next(model.parameters())
    local: list[Tensor] = []  # where the largest are pooled: one number for each feature
    total = torch.zeros((), dtype=torch.float64, device=parameter.device)
    count = 0
    for window in windows(model, image.shape[2], image.shape[3], max_pixels):
        features = model.features(image[:, :, window.rows, window.columns].to(parameter.device))
        features = features[:, :, window.feature_rows, window.feature_columns]
        if model.pooling != "mean":
            local.append(model.local_logits(features).double())
        total = total + features.double().sum(dim=(2, 3))
        count += features.shape[2] * features.shape[3]
    if local:
        return mean_of_largest(torch.cat(local, dim=1), share_of(model.pooling)).flatten()[0].cpu()
    return model.classify((total / count).to(parameter.dtype)).double().flatten()[0].cpu()
