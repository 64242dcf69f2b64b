"""Draws docs/images/explain.jpg: what `npr explain` draws of a simulated generator's image, by the detector in the box.

python docs/make_explain_picture.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from PIL import Image

from detector.cli import main as npr
from detector.synth import Generator, find_families
from detector.synth.photos import procedural_photos

SIDE = 256
FAMILY = "nearest"
OUT = Path(__file__).parent / "images" / "explain.jpg"


def main() -> int:
    photographs = torch.stack([photo.load()[:, :SIDE, :SIDE] for photo in procedural_photos(12, SIDE, seed=5)])
    fake = Generator(find_families([FAMILY])[0], photographs[1:]).reconstruct(photographs[:1])[0]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{FAMILY}.png")
        Image.fromarray(fake.permute(1, 2, 0).numpy()).save(file)
        status = npr(["explain", str(file), "--out", folder + "/why"])
        (picture,) = Path(folder, "why").glob("*.png")
        Image.open(picture).convert("RGB").save(OUT, quality=85, optimize=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
