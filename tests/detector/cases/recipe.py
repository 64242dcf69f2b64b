"""The file of a case, made from its recipe: no image of anyone's is kept.

A recipe is an object with

- `name`: of the file, since it is part of some reports;
- `picture`: `kind` (photograph, noise, gradient or flat), `width`, `height` and `seed`;
- `steps`, in order, each `{"resize": [width, height], "filter": NAME}`, `{"crop": [left, top, right, bottom]}`,
  `{"mode": MODE}` or `{"rotate": degrees}`, names as in Pillow;
- `save`: `format` and the options of Pillow's writer; `exif`, numbers of tags and their values, is one of them;
- `damage`, in order, each `{"cut": bytes kept}` or `{"at": place, "bytes": hexadecimal}`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from detector.synth.camera import develop
from detector.synth.scenes import dead_leaves


def file_of(recipe: Mapping[str, Any]) -> bytes:
    """The file's content.

    Raises:
        ValueError: the recipe has a word that is not known.
    """
    if unknown := set(recipe) - {"name", "picture", "steps", "save", "damage"}:
        raise ValueError(f"a recipe has no {', '.join(sorted(unknown))}")
    image = _picture(**recipe["picture"])
    for step in recipe.get("steps", []):
        image = _after(step, image)
    data = _saved(image, **recipe["save"])
    for damage in recipe.get("damage", []):
        data = _damaged(damage, data)
    return data


def _picture(kind: str, width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    if kind == "photograph":
        pixels = develop(dead_leaves(height, width, rng), rng).permute(1, 2, 0).numpy()
    elif kind == "noise":
        pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    elif kind == "gradient":
        down, across = np.mgrid[:height, :width]
        pixels = np.stack([255 * down // height, 255 * across // width, (down + across) % 256], -1).astype(np.uint8)
    elif kind == "flat":
        pixels = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), (height, width, 3)).copy()
    else:
        raise ValueError(f"picture has no kind {kind!r}")
    return Image.fromarray(pixels)


def _after(step: Mapping[str, Any], image: Image.Image) -> Image.Image:
    match step:
        case {"resize": size, "filter": name}:
            return image.resize(tuple(size), Image.Resampling[name.upper()])
        case {"crop": box}:
            return image.crop(tuple(box))
        case {"mode": mode}:
            return image.convert(mode)
        case {"rotate": degrees}:
            return image.rotate(degrees, Image.Resampling.BICUBIC)
    raise ValueError(f"no step is {dict(step)}")


def _saved(image: Image.Image, format: str, **options: Any) -> bytes:
    if "exif" in options:
        exif = Image.Exif()
        exif.update({int(tag): value for tag, value in options["exif"].items()})
        options = options | {"exif": exif}
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def _damaged(damage: Mapping[str, Any], data: bytes) -> bytes:
    match damage:
        case {"cut": kept}:
            return data[:kept]
        case {"at": place, "bytes": text}:
            new = bytes.fromhex(text)
            return data[:place] + new + data[place + len(new) :]
    raise ValueError(f"no damage is {dict(damage)}")
