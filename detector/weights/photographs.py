"""Real images of many histories, cut from the packages' pictures: what a detector must not call generated.

A history is what happened between the light and the file. Few photographs are at hand, so each gives many crops, and
histories are made where the packages bring none:

    native          as published: demosaiced, denoised, sharpened and compressed by cameras and editors
    shrunk          averaged down to a half or less, which leaves no trace of the publication
    camera          shrunk, then taken again by a simulated camera: mosaic, noise, demosaicing, tone curve
    camera-jpeg     the same, and compressed by the camera
    drawing         wallpapers drawn or rendered by people
    texture         photographs worked into textures of a game
    game            textures of other games, often resized and retouched

Pictures, not crops, are divided into those to train on and those to validate on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.console import Meter
from detector.data import decode
from detector.image_formats import open_image
from detector.synth.camera import develop, linear_light, photograph
from detector.weights.packages import PACKAGES, files_of

SIDE = 320
"""Of the crops in pixels: room for generators of factor 2, 4 and 8, whose rim is cut off, and for resized crops."""

TEXTURES = 400
"""Of a history, at most."""

VALIDATION = 9
"""Every so manyth picture is validated on."""

_FILTERS = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
    Image.Resampling.LANCZOS,
    Image.Resampling.BOX,
    Image.Resampling.HAMMING,
)


@dataclass(frozen=True)
class Picture:
    """A file, and whether it is trained or validated on."""

    path: Path
    split: str


def pictures(unpacked: dict[str, Path], kind: str, history: str | None = None) -> list[Picture]:
    """The packages' "photographs", "drawings" or "textures", of packages of one history if so wished, in a fixed
    order."""
    paths = [
        path
        for package in PACKAGES
        if history in (None, package.history)
        for path in files_of(unpacked[package.name], package, getattr(package, kind))
    ]
    return [Picture(path, "val" if i % VALIDATION == VALIDATION // 2 else "train") for i, path in enumerate(paths)]


def write_reals(unpacked: dict[str, Path], out: Path, *, seed: int) -> None:
    """Writes the real images: out/{train,val}/HISTORY/0_real/*.png, [SIDE, SIDE].

    The same packages and seed give the same images.
    """
    photographs = pictures(unpacked, "photographs")
    rng = np.random.default_rng([seed, 0])

    def textures(history: str) -> list[Picture]:
        usable = [picture for picture in pictures(unpacked, "textures", history) if _is_texture(picture.path)]
        return [usable[i] for i in rng.permutation(len(usable))[:TEXTURES]]

    plan: list[tuple[str, list[Picture], int, Callable[[Tensor, np.random.Generator], Tensor | None]]] = [
        ("native", photographs, 10, _native),
        ("shrunk", photographs, 20, _shrunk),
        ("camera", photographs, 7, _camera),
        ("camera-jpeg", photographs, 7, _camera_jpeg),
        ("drawing", pictures(unpacked, "drawings"), 5, _native),
        ("texture", textures("texture"), 1, _native),
        ("game", textures("game"), 1, _native),
    ]
    with Meter("reals", sum(len(those) * count for _, those, count, _ in plan)) as meter:
        for history, those, count, cut in plan:
            numbers = {"train": 0, "val": 0}
            for index, picture in enumerate(those):
                image = decode(picture.path)
                for n in range(count):
                    crop = cut(image, np.random.default_rng([seed, 1, *history.encode(), index, n]))
                    meter.advance(1)
                    if crop is not None:
                        write_image(out / picture.split / history / "0_real", numbers[picture.split], crop)
                        numbers[picture.split] += 1


def write_image(folder: Path, number: int, image: Tensor) -> None:
    """uint8 [3, H, W] as folder/NUMBER.png."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    Image.fromarray(pixels).save(folder / f"{number:05}.png", compress_level=1)


def _native(image: Tensor, rng: np.random.Generator) -> Tensor | None:
    if min(image.shape[1:]) < SIDE:
        return None
    return _most_detailed(_cut(image, SIDE, rng) for _ in range(4))


def _shrunk(image: Tensor, rng: np.random.Generator) -> Tensor | None:
    lowest = max((SIDE + 2) / min(image.shape[1:]), 0.12)
    if lowest > 0.75:
        return None
    factor = rng.uniform(lowest, max(lowest, 0.5))
    side = round(SIDE / factor)

    def candidates() -> Iterator[Tensor]:
        for _ in range(4):
            pixels = np.ascontiguousarray(_cut(image, side, rng).permute(1, 2, 0).numpy())
            small = Image.fromarray(pixels).resize((SIDE, SIDE), _FILTERS[rng.integers(len(_FILTERS))])
            yield torch.from_numpy(np.array(small)).permute(2, 0, 1)

    return _most_detailed(candidates())


def _camera(image: Tensor, rng: np.random.Generator) -> Tensor | None:
    scene = _shrunk(image, rng)
    return None if scene is None else develop(linear_light(scene), rng)


def _camera_jpeg(image: Tensor, rng: np.random.Generator) -> Tensor | None:
    scene = _shrunk(image, rng)
    return None if scene is None else decode(photograph(linear_light(scene), rng))


def _cut(image: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    top, left = (int(rng.integers(size - side + 1)) for size in image.shape[1:])
    return image[:, top : top + side, left : left + side]


def _most_detailed(crops: Iterator[Tensor], enough: float = 4.0) -> Tensor:
    """The first crop of enough detail, or the one of most: skies and blurred backgrounds would be too many."""
    best, most = None, -1.0
    for crop in crops:
        detail = _detail(crop)
        if detail > most:
            best, most = crop, detail
        if most >= enough:
            break
    assert best is not None
    return best


def _detail(image: Tensor) -> float:
    """Mean absolute difference of neighbouring pixels, down and across, in grey levels."""
    grey = image.float().mean(dim=0)
    return float((grey[1:] - grey[:-1]).abs().mean() + (grey[:, 1:] - grey[:, :-1]).abs().mean())


def _is_texture(path: Path) -> bool:
    """Whether a texture shows something: no map of normals or gloss, not too small, dark or flat."""
    if any(part in path.stem for part in ("_nm", "_norm", "_gm", "_spec", "_gloss", "normal")):
        return False
    with open(path, "rb") as stream, open_image(stream) as file:
        if min(file.size) < SIDE or file.mode != "RGB":
            return False
        red, _, blue = np.asarray(file.resize((64, 64))).reshape(-1, 3).mean(axis=0)
    return blue <= red + 60 and max(red, blue) >= 25 and _detail(decode(path)) >= 5
