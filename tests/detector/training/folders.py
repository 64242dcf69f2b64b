"""Tiny data sets: photographs are noise, fakes are up-sampled noise."""

from __future__ import annotations

import numpy as np
from PIL import Image


def save_image(path, seed, fake, side=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    if fake:
        small = rng.integers(0, 256, (side // 2, side // 2, 3), dtype=np.uint8)
        pixels = small.repeat(2, axis=0).repeat(2, axis=1)
    else:
        pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def make_split(folder, count, seed, side=40):
    """`count` reals and fakes each in folder/0_real and folder/1_fake."""
    for i in range(count):
        save_image(folder / "0_real" / f"{i:03}.png", [seed, 0, i], False, side)
        save_image(folder / "1_fake" / f"{i:03}.png", [seed, 1, i], True, side)


def make_data(root, train=8, val=3):
    make_split(root / "train" / "cat", train, 1)
    make_split(root / "train" / "dog", train, 2)
    if val:
        make_split(root / "val" / "cat", val, 3)
        make_split(root / "val" / "dog", val, 4)
    return root
