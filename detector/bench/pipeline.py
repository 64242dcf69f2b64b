"""From files on disk to scores: ours as `npr detect` does it, and the plain loop around a rival's network.

The plain loop decodes with Pillow on threads of its own while the network computes, and gathers images into batches.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.bench.networks import Network
from detector.detection import detect
from detector.models import Detector
from detector.synth.camera import photograph
from detector.synth.scenes import dead_leaves

BATCH = 16  # of the plain loop
_SCENES = 4


def write_files(folder: Path, count: int, size: int) -> list[str]:
    """JPEG photographs of size x size pixels, of a few procedural scenes in turn; those that are there stay."""
    names = [folder / f"{size}-{i:03}.jpg" for i in range(count)]
    missing = [name for name in names if not name.exists()]
    if missing:
        rngs = [np.random.default_rng(i) for i in range(_SCENES)]
        scenes = [photograph(dead_leaves(size, size, rng), rng) for rng in rngs]
        for name, scene in zip(names, itertools.cycle(scenes)):
            name.write_bytes(scene)
    return [str(name) for name in names]


def ours(model: Detector, files: Sequence[str], threads: int) -> list[float | None]:
    """A score a file, in their order."""
    return [detection.score for detection in detect(model, files, workers=threads)]


def plain(network: Network, files: Sequence[str], layout: torch.memory_format, threads: int) -> list[float]:
    """Likewise; BATCH should divide the number of files, which have one size."""
    scores: list[float] = []
    with ThreadPoolExecutor(threads) as pool:
        images = pool.map(_decode, files)
        while group := list(itertools.islice(images, BATCH)):
            logits = network(torch.stack(group).contiguous(memory_format=layout))
            scores += torch.as_tensor(logits).flatten().sigmoid().tolist()
    return scores


def _decode(path: str) -> Tensor:
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
