"""Logits of images of any size and number, in bounded memory.

On a GPU, small images of one size go through the model together, and the next batch is gathered and uploaded meanwhile.
On the CPU every image goes by itself, on one thread, and several go side by side: convolutions round otherwise in
larger batches and on more threads, so this is what makes an image's logit the same, bit for bit, whatever comes with it
and however many threads there are.

A large image goes through in tiles, and gives the same logit as uncut: a feature depends on a bounded neighbourhood, so
every tile is read with a margin of that width, the features of the margin are dropped, and what is left are the uncut
image's own features. Their mean, or what each gives by itself, is all that the logit depends on, beside what the whole
image adds (see :meth:`detector.models.Detector.whole`). Where a verdict is all that is wanted, some of the windows may
do, see :mod:`detector.models.sampling`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from detector.models.detector import Detector
from detector.models.passes import Passes
from detector.models.pooling import mean_of_largest, share_of
from detector.models.transfers import CudaDevice, Transfers

MAX_PIXELS = 2**20
"""Most pixels that go through the model in one pass. The network needs about 400 bytes for each."""

MAX_WAITING_PIXELS = 2**25
"""Most pixels (3 bytes each) that wait for others of their size before they are scored without them."""

Key = TypeVar("Key")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Promise(Protocol[T_co]):
    """What a Future has of use here: whether the result is there, and the result, waited for."""

    def done(self) -> bool: ...

    def result(self) -> T_co: ...


Start = Callable[[Passes, Detector, Tensor], Promise[T]]
"""Starts the passes that an image [3, H, W] needs, and promises what comes of them."""


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
    for key, logit in logit_stream(model, views, batch_size, start_logit):
        yield key, logit.sigmoid().item()


def logit_stream(
    model: Detector, views: Iterable[tuple[Key, Tensor]], batch_size: int, start: Start[T]
) -> Iterator[tuple[Key, Tensor | T]]:
    """As :func:`score_stream`, with a way of one's own to read images of more than one pass.

    Args:
        start: as :func:`start_logit`; asked for images of more than MAX_PIXELS.

    Yields:
        (key, what `start` has promised); for other images (key, logit), float64 scalar on the CPU.
    """
    stream = _in_batches if _device_of(model).type == "cuda" else _one_by_one
    yield from stream(model.for_inference(), views, batch_size, start)


def _one_by_one(
    model: Detector, views: Iterable[tuple[Key, Tensor]], _: int, start: Start[T]
) -> Iterator[tuple[Key, Tensor | T]]:
    started: deque[tuple[Key, Promise[Tensor] | Promise[T]]] = deque()
    with _passes(model) as passes:
        for key, image in views:
            begin = start if _is_large(image) else start_logit
            started.append((key, begin(passes, model, image)))
            while started and started[0][1].done():
                yield _result(*started.popleft())
        while started:
            yield _result(*started.popleft())


def _result(key: Key, promise: Promise[T]) -> tuple[Key, T]:
    return key, promise.result()


def _in_batches(
    model: Detector, views: Iterable[tuple[Key, Tensor]], batch_size: int, start: Start[T]
) -> Iterator[tuple[Key, Tensor | T]]:
    @torch.inference_mode()
    def compute(images: Tensor) -> Tensor:
        return model(images)

    transfers = Transfers(CudaDevice(_device_of(model)), compute)
    yield from gather(model, views, batch_size, start, transfers)


def gather(
    model: Detector, views: Iterable[tuple[Key, Tensor]], batch_size: int, start: Start[T], transfers: Transfers
) -> Iterator[tuple[Key, Tensor | T]]:
    """Images of one size in batches, one of which is on the device while the next one is gathered; as
    :func:`logit_stream`."""
    waiting: dict[torch.Size, list[tuple[Key, Tensor]]] = {}
    waiting_pixels = 0
    computing: list[Callable[[], Iterator[tuple[Key, Tensor]]]] = []

    def begin(groups: Iterable[list[tuple[Key, Tensor]]]) -> Iterator[tuple[Key, Tensor]]:
        """Starts them, and gives what was started before."""
        for group in groups:
            keys, images = zip(*group, strict=True)
            computing.append(partial(_with_keys, keys, transfers.start(images)))
            if len(computing) > 1:
                yield from computing.pop(0)()

    for key, image in views:
        if _is_large(image):
            with _passes(model) as passes:
                yield _result(key, start(passes, model, image))
            continue
        pixels = image.shape[1] * image.shape[2]
        group = waiting.setdefault(image.shape, [])
        group.append((key, image))
        waiting_pixels += pixels
        if len(group) >= batch_size or len(group) * pixels >= MAX_PIXELS:
            del waiting[image.shape]
            waiting_pixels -= len(group) * pixels
            yield from begin([group])
        elif waiting_pixels > MAX_WAITING_PIXELS:
            groups, waiting, waiting_pixels = list(waiting.values()), {}, 0
            yield from begin(groups)
    yield from begin(waiting.values())
    for finish in computing:
        yield from finish()


def _with_keys(keys: tuple[Key, ...], wait: Callable[[], Tensor]) -> Iterator[tuple[Key, Tensor]]:
    return zip(keys, wait(), strict=True)


def _is_large(image: Tensor) -> bool:
    return image.shape[1] * image.shape[2] > MAX_PIXELS


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
    margin = margin_of(model)
    core = max(margin, (math.isqrt(max_pixels) - 2 * margin) // step * step)
    if height * width <= max_pixels:
        core = math.ceil(max(height, width) / step) * step
    for top in range(0, height, core):
        for left in range(0, width, core):
            yield window_of(model, (height, width), slice(top, top + core), slice(left, left + core))


def window_of(model: Detector, size: tuple[int, int], rows: slice, columns: slice) -> Window:
    """The window with the features of a core, of an image of that height and width.

    Args:
        rows, columns: the core; multiples of the model's tile_alignment, the last of which may lie beyond the image.
    """
    margin = margin_of(model)

    def span(core: slice, side: int) -> tuple[slice, slice]:
        # At the image's own border there is no margin: the network's padding is the true one.
        before = min(margin, core.start)
        first = before // model.feature_stride
        kept = slice(first, first + (core.stop - core.start) // model.feature_stride)
        return slice(core.start - before, min(core.stop + margin, side)), kept

    (read_rows, feature_rows), (read_columns, feature_columns) = (
        span(core, side) for core, side in zip((rows, columns), size, strict=True)
    )
    return Window(read_rows, read_columns, feature_rows, feature_columns)


def margin_of(model: Detector) -> int:
    """Pixels around a core that its features depend on, at most; a multiple of the model's tile_alignment."""
    return math.ceil(model.feature_reach / model.tile_alignment) * model.tile_alignment


def _device_of(model: Detector) -> torch.device:
    return next(model.parameters()).device


def _passes(model: Detector) -> Passes:
    """Side by side on the CPU, one after another on a GPU."""
    return Passes(torch.get_num_threads() if _device_of(model).type == "cpu" else 1)


def start_logit(passes: Passes, model: Detector, image: Tensor) -> Future[Tensor]:
    """Starts the passes that give the logit of [3, H, W]: float64 scalar on the CPU."""
    return _start(passes, model, image, MAX_PIXELS)


def _start(passes: Passes, model: Detector, image: Tensor, max_pixels: int) -> Future[Tensor]:
    height, width = image.shape[1:]
    if height * width <= max_pixels:
        return passes.start(lambda: _on_cpu(model(_input(model, image))), height * width)
    tiles = [
        passes.start(partial(read_window, model, image, window), window.pixels)
        for window in windows(model, height, width, max_pixels)
    ]
    whole = start_whole(passes, model, image)
    return passes.start(lambda: _together(model, [tile.result() for tile in tiles]) + whole.result(), 0)


def start_whole(passes: Passes, model: Detector, image: Tensor) -> Future[float]:
    """Starts what the whole image [3, H, W] adds to its logit, see :func:`whole_of`."""
    return passes.start(partial(whole_of, model, image), 0)


def whole_of(model: Detector, image: Tensor) -> float:
    """What the whole image [3, H, W] adds to its logit: 0 in detectors that have no such part."""
    whole = model.whole(_input(model, image))
    return 0.0 if whole is None else whole.item()


def _input(model: Detector, image: Tensor) -> Tensor:
    """[3, H, W] as [1, 3, H, W] in channels_last: convolutions round otherwise in another layout.

    Decoded images have it and are not copied. The batch's stride is the image's size, where torch looks for the layout.
    """
    return image.permute(1, 2, 0).contiguous()[None].permute(0, 3, 1, 2).to(_device_of(model))


def _on_cpu(logit: Tensor) -> Tensor:
    return logit.double().flatten()[0].cpu()


def read_window(model: Detector, image: Tensor, window: Window) -> tuple[Tensor, int]:
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
