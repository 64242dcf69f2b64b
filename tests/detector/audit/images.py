"""Small data sets with something planted in the fakes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageCms, PngImagePlugin

SIDE = 64
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(rng, height=SIDE, width=SIDE, contrast=1.0):
    """Structure at several scales and noise, float [H, W, 3], in colour."""
    pixels = rng.normal(0, 4, (height, width, 3))
    for side in (3, 8, 16):
        coarse = rng.normal(0, 25, (side, side, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(coarse[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += np.asarray(layer)
    return 128 + contrast * pixels


def as_image(pixels):
    return Image.fromarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = pixels if isinstance(pixels, Image.Image) else as_image(pixels)
    image.save(path, **options)


def make_set(root, rng, plant=None, *, count=24, suffix="png", split="", **options):
    """`count` reals and fakes; `plant(path, pixels, rng)` writes the fakes where it is given."""
    for label in ("0_real", "1_fake"):
        for i in range(count):
            path = root / split / label / f"{i:03}.{suffix}"
            pixels = picture(rng)
            if label == "1_fake" and plant is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                plant(path, pixels, rng)
            else:
                save(path, pixels, **options)
    return root


def exif(**fields):
    """EXIF with make, model, software."""
    tags = {"make": 0x010F, "model": 0x0110, "software": 0x0131}
    found = Image.Exif()
    for name, value in fields.items():
        found[tags[name]] = value
    return found


def text(**entries):
    found = PngImagePlugin.PngInfo()
    for keyword, value in entries.items():
        found.add_text(keyword, value)
    return found
