"""Draws docs/images/lattice.png: how strong detail is by the row's place in its group of eight, photographs and fakes.

    python docs/make_lattice_picture.py

The photographs are procedural (detector.synth); the generator up-samples by a transposed convolution.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from PIL import Image
from torch import Tensor

from detector.synth import Generator, find_families
from detector.synth.photos import procedural_photos

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COUNT, SIDE, GROUP = 12, 256, 8
FAMILY = "transposed-k3"
OUT = Path(__file__).parent / "images" / "lattice.png"


def strength(images: Tensor) -> Tensor:
    """[N, GROUP] from uint8 [N, 3, H, W]: mean strength of the differences of neighbouring rows, by the upper row's
    number modulo GROUP, of each image over its mean."""
    rows = images.float().diff(dim=2).abs().clamp(max=16).mean(dim=(1, 3))  # edges count as detail does
    rows = rows[:, : rows.shape[1] // GROUP * GROUP].unflatten(1, (-1, GROUP)).mean(dim=1)
    return rows / rows.mean(dim=1, keepdim=True)


def main() -> None:
    images = [photo.load() for photo in procedural_photos(2 * COUNT, SIDE, seed=3)]
    photographs = torch.stack([image[:, :SIDE, :SIDE] for image in images])
    generator = Generator(find_families([FAMILY])[0], photographs[COUNT:])
    photographs = photographs[:COUNT]
    figure, axes = plt.subplots(1, 2, figsize=(8, 2.6), sharey=True, layout="constrained")
    panels = {"photographs": photographs, "fakes of a simulated generator": generator.reconstruct(photographs)}
    for each, (title, panel), colour in zip(axes, panels.items(), ("#0072b2", "#d55e00"), strict=True):
        each.plot(range(GROUP), strength(panel).T, color=colour, alpha=0.6, linewidth=1)
        each.set(title=title, xlabel=f"row modulo {GROUP}", xticks=range(GROUP))
        each.grid(color="#dddddd", linewidth=0.5)
        each.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("strength / mean")
    figure.savefig(OUT, dpi=120)
    Image.open(OUT).convert("RGB").quantize(64).save(OUT, optimize=True)


if __name__ == "__main__":
    main()
