"""Tiny data sets: reals are noise, fakes are smaller noise up-sampled bilinearly."""

from __future__ import annotations

import numpy as np
from PIL import Image


def save_image(path, seed, fake, side):
    path.parent.mkdir(parents=True, exist_ok=True)
    inner = side // 2 if fake else side
    pixels = np.random.default_rng(seed).integers(0, 256, (inner, inner, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR).save(path)


def make_split(folder, count, seed, side=24):
    """`count` reals and fakes each in folder/0_real and folder/1_fake."""
    for i in range(count):
        save_image(folder / "0_real" / f"{i:03}.png", [seed, 0, i], False, side)
        save_image(folder / "1_fake" / f"{i:03}.png", [seed, 1, i], True, side)


def make_data(root, train=8, val=3, side=24):
    make_split(root / "train" / "cat", train, 1, side)
    make_split(root / "train" / "dog", train, 2, side)
    if val:
        make_split(root / "val" / "cat", val, 3, side)
        make_split(root / "val" / "dog", val, 4, side)
    return root
