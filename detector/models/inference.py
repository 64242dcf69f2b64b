"""Logits of images of any size and number, in bounded memory.

On a GPU, small images of one size go through the model together. On the CPU every image goes by itself, on one thread,
and several go side by side: convolutions round otherwise in larger batches and on more threads, so this is what makes
an image's logit the same, bit for bit, whatever comes with it and however many threads there are.

A large image goes through in tiles, and gives the same logit as uncut: a feature depends on a bounded neighbourhood, so
every tile is read with a margin of that width, the features of the margin are dropped, and what is left are the uncut
image's own features. Their mean, or what each gives by itself, is all that the logit depends on.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from detector.models.detector import Detector
from detector.models.passes import Passes
from detector.models.pooling import mean_of_largest, share_of

MAX_PIXELS = 2**20
"""Most pixels that go through the model in one pass. The network needs about 400 bytes for each."""

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
        float64 [N] on the CPU. Those of images cut into tiles differ from the uncut ones' by rounding alone. Those of a
        model on the CPU depend on nothing but each image's own pixels, bit for bit.
    """
    model = model.for_inference()
    _, _, height, width = images.shape
    device = _device_of(model)
    if device.type == "cpu" or height * width > max_pixels:
        with _passes(model) as passes:
            started = [_start(passes, model, image, max_pixels) for image in images]
            rows = [logit.result() for logit in started]
        return torch.stack(rows) if rows else torch.empty(0, dtype=torch.float64)
    batch = max(1, max_pixels // (height * width)) if height * width else 1
    parts = [model(part.to(device)).double().flatten().cpu() for part in images.split(batch)]
    return torch.cat(parts)


def score_stream(model: Detector, views: Iterable[tuple[Key, Tensor]], batch_size: int) -> Iterator[tuple[Key, float]]:
    """Scores images as they come.

    Args:
        model: in evaluation mode.
        views: (key, uint8 [3, H, W]).
        batch_size: on a GPU, images of one size that are gathered before they are scored.

    Yields:
        (key, score), the sigmoid of the logit in 0..1: on the CPU in the order of the views, on a GPU in that in which
        batches fill.
    """
    stream = _one_by_one if _device_of(model).type == "cpu" else _in_batches
    yield from stream(model.for_inference(), views, batch_size)


def _one_by_one(model: Detector, views: Iterable[tuple[Key, Tensor]], _: int) -> Iterator[tuple[Key, float]]:
    started: deque[tuple[Key, Future[Tensor]]] = deque()
    with _passes(model) as passes:
        for key, image in views:
            started.append((key, _start(passes, model, image, MAX_PIXELS)))
            while started and started[0][1].done():
                yield _score(*started.popleft())
        while started:
            yield _score(*started.popleft())


def _score(key: Key, logit: Future[Tensor]) -> tuple[Key, float]:
    return key, logit.result().sigmoid().item()


def _in_batches(model: Detector, views: Iterable[tuple[Key, Tensor]], batch_size: int) -> Iterator[tuple[Key, float]]:
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

    @property
    def pixels(self) -> int:
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


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


def _device_of(model: Detector) -> torch.device:
    return next(model.parameters()).device


def _passes(model: Detector) -> Passes:
    """Side by side on the CPU, one after another on a GPU."""
    return Passes(torch.get_num_threads() if _device_of(model).type == "cpu" else 1)


def _start(passes: Passes, model: Detector, image: Tensor, max_pixels: int) -> Future[Tensor]:
    """Starts the passes that give the logit of [3, H, W]: float64 scalar on the CPU."""
    height, width = image.shape[1:]
    if height * width <= max_pixels:
        return passes.start(lambda: _on_cpu(model(_input(model, image))), height * width)
    tiles = [
        passes.start(partial(_tile, model, image, window), window.pixels)
        for window in windows(model, height, width, max_pixels)
    ]
    return passes.start(lambda: _together(model, [tile.result() for tile in tiles]), 0)


def _input(model: Detector, image: Tensor) -> Tensor:
    """[3, H, W] as [1, 3, H, W] in channels_last: convolutions round otherwise in another layout.

    Decoded images have it and are not copied. The batch's stride is the image's size, where torch looks for the layout.
    """
    return image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2).to(_device_of(model))


def _on_cpu(logit: Tensor) -> Tensor:
    return logit.double().flatten()[0].cpu()


def _tile(model: Detector, image: Tensor, window: Window) -> tuple[Tensor, int]:
    """What the logit needs of a window's features, and their number.

    Returns:
        float64: the features' sum [1, C]; or, where the largest are pooled, the local logits [1, number].
    """
    features = model.features(_input(model, image[:, window.rows, window.columns]))
    features = features[:, :, window.feature_rows, window.feature_columns]
    count = features.shape[2] * features.shape[3]
    if model.pooling != "mean":
        return model.local_logits(features).double(), count
    return features.double().sum(dim=(2, 3)), count


def _together(model: Detector, tiles: list[tuple[Tensor, int]]) -> Tensor:
    """The logit of all tiles' features: float64 scalar on the CPU."""
    parts, counts = zip(*tiles, strict=True)
    if model.pooling != "mean":
        return _on_cpu(mean_of_largest(torch.cat(parts, dim=1), share_of(model.pooling)))
    mean = sum(parts) / sum(counts)
    return _on_cpu(model.classify(mean.to(next(model.parameters()).dtype)))
