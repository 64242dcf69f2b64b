"""Draws docs/images/residual.png: a photograph and a simulated generator's version of it, with their NPR residuals.

    python docs/make_residual_picture.py

The photograph is procedural (detector.synth); the generator up-samples by nearest neighbours, as many GANs do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

import npr_kernels as nk
from detector.synth import Generator, find_families
from detector.synth.photos import procedural_photos

SIDE, ZOOM, GAP, CAPTION = 56, 5, 12, 26
GAIN = 4  # residuals are mostly a few grey levels
OUT = Path(__file__).parent / "images" / "residual.png"


def crops(count: int) -> Tensor:
    """uint8 [count, 3, SIDE, SIDE] from the middles of procedural photographs."""
    images = [photo.load() for photo in procedural_photos(count, SIDE, seed=2)]
    middles = [((i.shape[1] - SIDE) // 4 * 2, (i.shape[2] - SIDE) // 4 * 2) for i in images]
    return torch.stack([i[:, y : y + SIDE, x : x + SIDE] for i, (y, x) in zip(images, middles, strict=True)])


def residual_picture(image: Tensor) -> Tensor:
    """The residual around middle grey, uint8 [3, H, W]."""
    return (128 + GAIN * nk.npr_residual(image[None])[0]).clamp(0, 255).to(torch.uint8)


def main() -> None:
    photographs = crops(24)
    generator = Generator(find_families(["nearest"])[0], photographs[1:])
    photograph = photographs[:1]
    fake = generator.reconstruct(photograph)
    panels = {
        "photograph": photograph[0],
        "its residual": residual_picture(photograph[0]),
        "simulated fake": fake[0],
        "its residual ": residual_picture(fake[0]),
    }

    side = SIDE * ZOOM
    canvas = Image.new("RGB", (len(panels) * (side + GAP) - GAP, side + CAPTION), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(16)
    for index, (caption, panel) in enumerate(panels.items()):
        left = index * (side + GAP)
        tile = Image.fromarray(np.ascontiguousarray(panel.permute(1, 2, 0).numpy()))
        canvas.paste(tile.resize((side, side), Image.Resampling.NEAREST), (left, 0))
        draw.text((left + side / 2, side + 4), caption.strip(), fill="black", font=font, anchor="ma")
    OUT.parent.mkdir(exist_ok=True)
    canvas.save(OUT, optimize=True)


if __name__ == "__main__":
    main()
