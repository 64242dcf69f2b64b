"""Scores of whatever a program holds images in: files, Pillow images, arrays and tensors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import closing
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.data import Admit, decode, decode_opened, read_ahead
from detector.models.detector import Detector
from detector.models.inference import score_stream

AnImage: TypeAlias = "str | os.PathLike[str] | Image.Image | np.ndarray | Tensor"

ONE = (str, os.PathLike, Image.Image, np.ndarray, Tensor)

WANTED = "a path, a Pillow image, a uint8 array [H, W, 3] or a uint8 tensor [3, H, W]"


def score_images(
    model: Detector, images: AnImage | Iterable[AnImage], *, batch_size: int, workers: int
) -> float | Tensor:
    """See :meth:`detector.models.Detector.score`."""
    if isinstance(images, (np.ndarray, Tensor)) and images.ndim == 4:
        images = list(images)
    if isinstance(images, ONE):
        return _scores(model, {"images": images}.items(), batch_size, workers)[0]
    if isinstance(images, (bytes, bytearray, memoryview)) or not isinstance(images, Iterable):
        raise TypeError(f"images must be {WANTED}, or several of them, got {type(images).__name__}")
    named = ((f"images[{position}]", image) for position, image in enumerate(images))
    return torch.tensor(_scores(model, named, batch_size, workers), dtype=torch.float64)


def _scores(model: Detector, named: Iterable[tuple[str, AnImage]], batch_size: int, workers: int) -> list[float]:
    """In the order of the images, each of which comes with what errors call it."""
    model.eval()

    def load(item: tuple[str, AnImage], _: Admit) -> Tensor:
        return model.preprocessing.test_view(_pixels(*item))

    with closing(read_ahead(named, load, workers=workers)) as reading:
        views = ((position, view) for position, (_, view) in enumerate(reading))
        found = dict(score_stream(model, views, batch_size))
    return [found[position] for position in sorted(found)]


def _pixels(name: str, image: AnImage) -> Tensor:
    """uint8 [3, H, W], on the CPU."""
    match image:
        case str() | os.PathLike():
            return decode(image)
        case Image.Image():
            return decode_opened(image, getattr(image, "filename", "") or name)
        case np.ndarray():
            form, is_uint8 = "[H, W, 3]", image.dtype == np.uint8
        case Tensor():
            form, is_uint8 = "[3, H, W]", image.dtype == torch.uint8
        case _:
            raise TypeError(f"{name} must be {WANTED}, got {type(image).__name__}")
    if not is_uint8:
        raise TypeError(f"{name} must be uint8, got {image.dtype}")
    if image.ndim == 3:
        # A copy: arrays may be read-only or run backwards, which tensors cannot.
        pixels = image.cpu() if isinstance(image, Tensor) else torch.from_numpy(image.copy()).permute(2, 0, 1)
        if pixels.shape[0] == 3 and min(pixels.shape[1:]) >= 2:
            return pixels
    raise ValueError(f"{name} must be {form} with H and W at least 2, got {list(image.shape)}")
