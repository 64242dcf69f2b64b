"""A complete data set of real and simulated-generator images, laid out as ForenSynths is:

    OUT/train/<generator>/{0_real,1_fake}/00000.png
    OUT/val/<generator>/{0_real,1_fake}/...
    OUT/test/<generator>/{0_real,1_fake}/...
    OUT/synth.json                             what was made, from what, and how

The only difference between the two labels is the generator. Every image, real or fake, starts as a crop of a
photograph at a uniformly random offset, so that the photograph's own JPEG grid says nothing; fakes pass through a
generator as a larger crop whose rim is cut off, so that no padding shows; all have the same size, are 8-bit, and are
stored as uncompressed PNG, so that files of both labels have the same length and nothing else to tell them apart.

Photographs are divided by source image into four disjoint groups: one that the generators are fitted on, and one for
each of train, val and test. Within a split, reals and fakes come from the same photographs at different offsets.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from detector.data import DataError
from detector.folders import whole_folder
from detector.synth.finishing import blend_region, compress
from detector.synth.generators import Generator, GeneratorSpec
from detector.synth.learned import LearnedGenerator, LearnedSpec, train
from detector.synth.learned.training import STEPS
from detector.synth.networks import Network, NetworkSpec, load_network
from detector.synth.photos import Photo, folder_photos, procedural_photos
from npr_kernels import __version__

MANIFEST = "synth.json"
NOTE = (
    "The generators are simulated: decoders fitted in closed form that imitate the up-sampling of generators. "
    "Results on this data show how a detector reads up-sampling traces, not how it does on any published generator."
)

SHARES = {"fit": 0.10, "val": 0.10, "test": 0.25}
"""Parts of the photographs, at least one each; the rest is for training."""

LEARNED_NOTE = (
    "The learned generators are small networks trained on the photographs of this data set: non-linear decoders under "
    "a discriminator's pressure, as published generators have, but of neither their quality nor their content."
)

NETWORKS_NOTE = "The networks were trained by others for super-resolution; they enlarge the shrunk photographs."

Spec = GeneratorSpec | LearnedSpec | NetworkSpec

MARGIN = 16
"""Rim in pixels that is cut off a generator's output: beyond the reach of its padding, and a multiple of every
generator's scale, so that its cells start at the stored image's corner as a real generator's do."""

FIT_CROPS = 64
FIT_SIDE = 64

LEARNED_PHOTOS = 200
"""Learned generators are trained on, at most: the photographs to fit on, and of those to train on."""


LABELS = ("0_real", "1_fake")


AnyGenerator = Generator | LearnedGenerator | Network


@dataclass(frozen=True)
class _Part:
    """The images of one generator in one split, `count` of each label."""

    split: str
    generator: AnyGenerator
    count: int

    @property
    def images(self) -> int:
        return len(LABELS) * self.count

    def folder(self, root: Path, label: str) -> Path:
        return root / self.split / self.generator.spec.name / label


@dataclass(frozen=True)
class _Tally:
    """Images written for a generator, and its squared error against the photographs, in exact integers."""

    images: int = 0
    squares: int = 0
    samples: int = 0

    def __add__(self, other: _Tally) -> _Tally:
        return _Tally(self.images + other.images, self.squares + other.squares, self.samples + other.samples)

    @property
    def psnr(self) -> float:
        """In dB, before blending and compression; an exact reconstruction counts as one error of 1."""
        return 10 * math.log10(255**2 * self.samples / max(self.squares, 1))


def build(
    out: str | os.PathLike[str],
    families: Sequence[Spec],
    train_families: Sequence[Spec],
    *,
    photos: str | os.PathLike[str] | None = None,
    scenes: int = 200,
    size: int = 128,
    count: int = 100,
    train_count: int = 1500,
    seed: int = 0,
    force: bool = False,
    workers: int | None = None,
    steps: int = STEPS,
    cache: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    networks: str | os.PathLike[str] | None = None,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any]:
    """Builds a data set; it appears under `out` only when it is complete.

    The same arguments give the same bytes, whatever `workers` is.

    Args:
        out: the folder to make; it must not exist or be empty.
        families: generators to test on.
        train_families: generators to train and validate on, some or none of them among `families`.
        photos: a folder of photographs; None makes procedural ones.
        scenes: number of procedural photographs.
        size: side of the images in pixels, a multiple of 8.
        count: images of each label for each generator in test and in val.
        train_count: images of each label for each generator in train.
        seed: of everything that is drawn.
        force: replace `out` if it is a data set made by this function.
        workers: threads; by default as many as torch uses.
        steps: of each learned generator's training.
        cache: folder in which trained generators are kept, and found again; None for none.
        device: that they are trained on.
        networks: folder in which packages of trained networks lie unpacked; None for the installed ones.
        progress: called now and then with the number of images written since the last call.

    Returns:
        The manifest, as stored in synth.json.

    Raises:
        ValueError: an argument is out of range.
        DataError: `out` is in the way or cannot be written, or there are too few photographs.
    """
    workers = torch.get_num_threads() if workers is None else workers
    _check_numbers(size=size, count=count, train_count=train_count, scenes=scenes, seed=seed, workers=workers)
    out = Path(out).resolve()  # through a link, to the folder that is to be replaced
    _check_out(out, force)
    rng = np.random.default_rng([seed, 0])
    sources: list[Photo]
    skipped: dict[str, str]
    if photos is None:
        sources, skipped = procedural_photos(scenes, size + 2 * MARGIN, seed), {}
    else:
        sources, skipped = folder_photos(photos, size + 2 * MARGIN, _useful_photos(count, train_count), rng)
    groups = _divide(sources)
    specs = list(dict.fromkeys([*train_families, *families]))

    with _single_threaded(), _appearing(out, force) as folder, _executor(workers) as executor:
        crops = _fit_crops(groups["fit"], rng)
        closed = [spec for spec in specs if isinstance(spec, GeneratorSpec)]
        fitted: dict[Spec, AnyGenerator] = dict(
            zip(closed, executor.map(lambda spec: Generator(spec, crops), closed), strict=True)
        )
        learned = [spec for spec in specs if isinstance(spec, LearnedSpec)]
        if learned:
            # Photographs to train on, since there are few to fit on: a learned generator must see many.
            photographs = [photo.load().contiguous() for photo in [*groups["fit"], *groups["train"]][:LEARNED_PHOTOS]]
            for spec in learned:
                fitted[spec] = train(spec, photographs, steps=steps, cache=cache, device=device)
        for network in specs:
            if isinstance(network, NetworkSpec):
                fitted[network] = load_network(network.name, networks)
        parts = [_Part("train", fitted[spec], train_count) for spec in train_families]
        parts += [_Part("val", fitted[spec], count) for spec in train_families]
        parts += [_Part("test", fitted[spec], count) for spec in families]
        tallies = _write_parts(folder, parts, groups, size, seed, executor, progress)
        manifest = {
            "note": _note(specs),
            "photos": "procedural" if photos is None else os.fspath(photos),
            "size": size,
            "count": count,
            "train_count": train_count,
            "seed": seed,
            "images": sum(part.images for part in parts),
            "train_families": [spec.name for spec in train_families],
            "families": [spec.name for spec in families],
            "generators": [
                {
                    **asdict(spec),
                    "description": spec.description,
                    "psnr_db": round(tallies[spec.name].psnr, 2),
                    **_learning(fitted[spec]),
                }
                for spec in specs
            ],
            "photographs": {group: sorted(photo.name for photo in members) for group, members in groups.items()},
            "skipped": skipped,
            "versions": {
                "npr-kernels": __version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "pillow": PIL.__version__,
            },
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _note(specs: Sequence[Spec]) -> str:
    notes = {GeneratorSpec: NOTE, LearnedSpec: LEARNED_NOTE, NetworkSpec: NETWORKS_NOTE}
    return " ".join(note for kind, note in notes.items() if any(isinstance(spec, kind) for spec in specs))


def _learning(generator: AnyGenerator) -> dict[str, Any]:
    """How a learned generator's training went."""
    return {"training": asdict(generator.training)} if isinstance(generator, LearnedGenerator) else {}


def _write_parts(
    folder: Path,
    parts: Sequence[_Part],
    groups: Mapping[str, Sequence[Photo]],
    size: int,
    seed: int,
    executor: ThreadPoolExecutor,
    progress: Callable[[int], None] | None,
) -> dict[str, _Tally]:
    """Writes all images, a photograph a job, and returns the tally of each generator."""
    for part in parts:
        for label in LABELS:
            part.folder(folder, label).mkdir(parents=True)
    futures = []
    for split in ("train", "val", "test"):
        members = [part for part in parts if part.split == split]
        for i, photo in enumerate(groups[split]):
            # Image k of a part is cut from photograph k modulo their number.
            turns = [(part, range(i, part.count, len(groups[split]))) for part in members]
            futures.append(executor.submit(_write_photo, folder, photo, turns, size, seed))
    totals: dict[str, _Tally] = {}
    for future in futures:
        tallies = future.result()
        for name, tally in tallies.items():
            totals[name] = totals.get(name, _Tally()) + tally
        if progress is not None:
            progress(sum(tally.images for tally in tallies.values()))
    return totals


def _write_photo(
    folder: Path, photo: Photo, turns: Sequence[tuple[_Part, range]], size: int, seed: int
) -> dict[str, _Tally]:
    """Writes the images of the given numbers that one photograph contributes to each part."""
    tallies: dict[str, _Tally] = {}
    image = None
    for part, numbers in turns:
        if not numbers:
            continue
        image = photo.load() if image is None else image
        spec = part.generator.spec
        rngs = {
            (label, k): np.random.default_rng([seed, 1, k, *f"{part.split}/{spec.name}/{label}".encode()])
            for label in LABELS
            for k in numbers
        }
        crops = {key: _random_crop(image, size + 2 * MARGIN, rng) for key, rng in rngs.items()}
        originals = torch.stack([crops["1_fake", k] for k in numbers])
        generated = part.generator.reconstruct(originals)
        squares = int((_cut(generated).int() - _cut(originals).int()).square().sum())
        for k, original, fake in zip(numbers, _cut(originals), _cut(generated), strict=True):
            if spec.blend:
                fake = blend_region(original, fake, rngs["1_fake", k])
            for label, result in zip(LABELS, (_cut(crops["0_real", k]), fake), strict=True):
                if spec.jpeg is not None:
                    result = compress(result, spec.jpeg)
                _save(result, part.folder(folder, label) / f"{k:05d}.png")
        before = tallies.get(spec.name, _Tally())
        tallies[spec.name] = before + _Tally(2 * len(numbers), squares, _cut(originals).numel())
    return tallies


def _random_crop(image: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    top = int(rng.integers(image.shape[1] - side + 1))
    left = int(rng.integers(image.shape[2] - side + 1))
    return image[:, top : top + side, left : left + side]


def _cut(image: Tensor) -> Tensor:
    return image[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def _save(image: Tensor, path: Path) -> None:
    """PNG without compression: a smooth image, such as a fake, would otherwise make a smaller file."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    Image.fromarray(pixels).save(path, "PNG", compress_level=0)


def _divide(photos: Sequence[Photo]) -> dict[str, list[Photo]]:
    """Disjoint groups for fitting, train, val and test; the order of the photographs is random already."""
    photos = list(photos)
    if len(photos) < 4:
        raise DataError(f"at least 4 photographs are needed, got {len(photos)}")
    groups = {}
    total = len(photos)
    for name, share in SHARES.items():
        number = max(1, round(share * total))
        groups[name], photos = photos[:number], photos[number:]
    groups["train"] = photos
    return groups


def _useful_photos(count: int, train_count: int) -> int:
    """More photographs than this would leave some without an image."""
    train_share = 1 - sum(SHARES.values())
    needs = (FIT_CROPS / SHARES["fit"], count / SHARES["val"], count / SHARES["test"], train_count / train_share)
    return math.ceil(max(needs))


def _fit_crops(photos: Sequence[Photo], rng: np.random.Generator) -> Tensor:
    """uint8 [FIT_CROPS, 3, FIT_SIDE, FIT_SIDE], cut from the photographs in turn."""
    images = [photo.load() for photo in photos[:FIT_CROPS]]
    return torch.stack([_random_crop(images[i % len(images)], FIT_SIDE, rng) for i in range(FIT_CROPS)])


@contextmanager
def _appearing(out: Path, replace: bool) -> Iterator[Path]:
    """See :func:`detector.folders.whole_folder`; what the system has against it is a DataError."""
    try:
        with whole_folder(out, replace=replace) as folder:
            yield folder
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}") from error


@contextmanager
def _single_threaded() -> Iterator[None]:
    """torch on one thread per worker: more could change the order of a sum, and with it a pixel's rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _executor(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A pool that drops what has not begun when the block fails or is interrupted."""
    executor = ThreadPoolExecutor(workers)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _check_out(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file; name a folder to make")
    if not any(out.iterdir()):
        return
    if not force:
        raise DataError(f"{out} is not empty; --force replaces a data set made before")
    if not (out / MANIFEST).is_file():
        raise DataError(f"{out} is not empty and holds no {MANIFEST}; --force replaces only what npr synth has made")


def _check_numbers(**values: int) -> None:
    least = {"size": 32, "seed": 0}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if value < least.get(name, 1):
            raise ValueError(f"{name} must be at least {least.get(name, 1)}, got {value}")
    if values["size"] % 8:
        raise ValueError(f"size must be a multiple of 8, got {values['size']}")
