"""Ranges of a detector's maps on images of one's own, for int8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

from detector.data import DataError, ImageError, decode
from detector.models import Detector
from detector.models.quantised import Ranges, find_ranges

IMAGES = 64
"""At most, evenly spread: the largest values hardly grow with more."""

SIDE = 256
"""Of the centre that is looked at, in pixels."""


def ranges_on(model: Detector, paths: Iterable[Path]) -> Ranges:
    """On some of these images as the model is shown them; what cannot be decoded is left out.

    Args:
        model: in evaluation mode.

    Raises:
        DataError: none of them can be decoded.
    """
    listed = list(paths)
    chosen = [listed[i * len(listed) // IMAGES] for i in range(IMAGES)] if len(listed) > IMAGES else listed

    def views() -> Iterator[Tensor]:
        for path in chosen:
            try:
                yield _centre(model.preprocessing.test_view(decode(path)))
            except ImageError:
                continue

    try:
        return find_ranges(model, views())
    except ValueError as error:
        raise DataError(f"no image of {len(chosen)} could be read: {error}") from error


def _centre(image: Tensor) -> Tensor:
    top, left = (max(0, (size - SIDE) // 2) for size in image.shape[1:])
    return image[:, top : top + SIDE, left : left + SIDE]
