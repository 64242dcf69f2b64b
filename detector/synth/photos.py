"""The photographs that a data set is made from: a folder's, or procedural ones."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from detector.data import DataError, ImageError, decode, list_images
from detector.synth.camera import photograph
from detector.synth.scenes import dead_leaves

PROCEDURAL_SIZE = (320, 480)
"""Height and width of the procedural photographs."""


@dataclass(frozen=True)
class Photo:
    """One photograph: its name, and a function that decodes or makes it, uint8 [3, H, W], the same at every call."""

    name: str
    load: Callable[[], Tensor]


def folder_photos(
    folder: str | os.PathLike[str], side: int, limit: int, rng: np.random.Generator
) -> tuple[list[Photo], dict[str, str]]:
    """Photographs of a folder in random order.

    Args:
        folder: searched with its subfolders.
        side: photographs with a side below this many pixels are skipped.
        limit: stop when this many are found.
        rng: draws the order.

    Returns:
        The photographs, and the reason for each file that was skipped: too small, not decodable, or the same file
        as another (which could end up in training and in testing).

    Raises:
        DataError: no such folder, or no usable photograph in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    paths, _ = list_images(folder)
    photos: list[Photo] = []
    skipped: dict[str, str] = {}
    names: dict[bytes, str] = {}  # by content
    for path in (paths[i] for i in rng.permutation(len(paths))):
        if len(photos) == limit:
            break
        name = path.relative_to(folder).as_posix()
        try:
            height, width = decode(path).shape[1:]
            digest = hashlib.sha256(path.read_bytes()).digest()
        except ImageError as error:
            skipped[name] = error.reason
            continue
        if min(height, width) < side:
            skipped[name] = f"is {width}x{height} pixels; {side} are needed in each direction"
        elif digest in names:
            skipped[name] = f"is the same file as {names[digest]}"
        else:
            names[digest] = name
            photos.append(Photo(name, partial(decode, path)))
    if not photos:
        raise DataError(f"no photograph of at least {side}x{side} pixels in {folder}; {len(paths)} image files seen")
    return photos, skipped


def procedural_photos(count: int, side: int, seed: int) -> list[Photo]:
    """Photographs of dead-leaves scenes, each drawn and taken from a seed of its own.

    They are of PROCEDURAL_SIZE, and no side is below `side` pixels.
    """
    height, width = (max(extent, side) for extent in PROCEDURAL_SIZE)

    def make(index: int) -> Tensor:
        rng = np.random.default_rng([seed, 2, index])
        return decode(photograph(dead_leaves(height, width, rng), rng))

    return [Photo(f"scene-{index:04d}", partial(make, index)) for index in range(count)]
