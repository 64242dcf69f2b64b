"""`python -m benchmarks.pipeline [FOLDER]`: what `detect` makes of its parts, files to verdicts on the CPU.

Decoder alone and model alone, each on all threads, and `detect` by the number of workers, one after another in several
rounds; the best of each counts, as other work on the machine only adds to a time. What is wanted is 90 % of the slower
part. Where both parts want all cores that is not to be had for nothing: their work adds up.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from detector.data import decode, list_images
from detector.detection import detect
from detector.memory import keep_freed_memory
from detector.models import Detector
from detector.models.inference import score_stream
from detector.synth.scenes import dead_leaves

WANTED = 0.9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="of images (default: procedural photographs as JPEG, 480x320)")
    parser.add_argument("--images", type=int, default=500, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as made:
        found = list_images(args.folder or make(Path(made)))[0]
        files = list(itertools.islice(itertools.cycle(map(str, found)), args.images))
        show(measure(files, args.threads, args.rounds), len(files))


def make(folder: Path, count: int = 20) -> Path:
    for i in range(count):
        light = dead_leaves(320, 480, np.random.default_rng(i))
        Image.fromarray((255 * light.clip(0, 1) ** (1 / 2.2)).astype(np.uint8)).save(folder / f"{i}.jpg", quality=90)
    return folder


def measure(files: list[str], threads: int, rounds: int) -> dict[str, float]:
    """Seconds by name."""
    model = Detector.from_pretrained()
    images = {file: decode(file) for file in set(files)}
    with ThreadPoolExecutor(threads) as pool:
        works: dict[str, Callable[[], object]] = {
            "decoder": lambda: sum(1 for _ in pool.map(decode, files)),
            "model": lambda: sum(1 for _ in score_stream(model, ((file, images[file]) for file in files), 16)),
        }
        for workers in (0, 1, threads):
            works[f"detect, {workers} workers"] = lambda workers=workers: list(detect(model, files, workers=workers))
        best = dict.fromkeys(works, float("inf"))
        for name, work in itertools.chain(*[works.items()] * rounds):
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def show(seconds: dict[str, float], images: int) -> None:
    slower = max(seconds["decoder"], seconds["model"])
    for name, value in seconds.items():
        print(f"{name:20} {images / value:8.1f} images/s  {slower / value:5.2f} of the slower part (wanted {WANTED})")


if __name__ == "__main__":
    main()
