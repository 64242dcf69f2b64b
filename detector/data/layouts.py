"""Folders of real and generated images: what lies where, found by looking.

Three layouts and their relatives are understood:

- ForenSynths (Wang et al. 2020) and its relatives: `<split>/<class>/{0_real,1_fake}` to train and validate on,
  `test/<generator>/[<class>/]{0_real,1_fake}`;
- GenImage: `<generator>/{train,val}/{nature,ai}`;
- plain: `real/` and `fake/`.

A folder of any of these names labels every image below it; the folders above it name split, generator and class. The
root may be the whole data set, one split folder, one generator folder or the `test` folder alone.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from detector.finding import is_hidden, list_images

SPLITS = ("train", "val", "test")

REAL, FAKE = 0, 1

_LABELS = {
    "0_real": (REAL, "ForenSynths"),
    "1_fake": (FAKE, "ForenSynths"),
    "nature": (REAL, "GenImage"),
    "ai": (FAKE, "GenImage"),
    "real": (REAL, "plain"),
    "fake": (FAKE, "plain"),
}
_EXPECTED = (
    "<split>/<class>/{0_real,1_fake}, test/<generator>/[<class>/]{0_real,1_fake}, "
    "<generator>/{train,val}/{nature,ai}, or real/ and fake/"
)


class DataError(ValueError):
    """A data set that is not there, not as expected, or too small for its use."""


@dataclass(frozen=True)
class Sample:
    """One image: its file, label (0 real, 1 fake), generator and class ("" where the layout names no class)."""

    path: Path
    label: int
    generator: str
    category: str


@dataclass(frozen=True)
class Collection:
    """Images found under one root, sorted by path.

    Attributes:
        root: the folder that was searched.
        layout: name of the layout: "ForenSynths", "GenImage", "plain", or several joined by " + ".
        split: the split asked for, None for all that is there.
        samples: the images.
        ignored: files seen beside the images and left out because their extension is no image's.
    """

    root: Path
    layout: str
    split: str | None
    samples: tuple[Sample, ...]
    ignored: int = 0

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def labels(self) -> list[int]:
        """0 real, 1 fake, in the order of the samples."""
        return [sample.label for sample in self.samples]

    @property
    def generators(self) -> tuple[str, ...]:
        """Names of the generators, sorted."""
        return tuple(sorted({sample.generator for sample in self.samples}))

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the classes, sorted; empty where the layout has none."""
        return tuple(sorted({sample.category for sample in self.samples} - {""}))

    def select(self, categories: Iterable[str] | None = None, generators: Iterable[str] | None = None) -> Collection:
        """The images of the given classes and generators; None means all.

        Raises:
            DataError: a name does not occur here.
        """
        samples = self.samples
        if categories is not None:
            wanted = _known("class", categories, self.categories, self.root)
            samples = tuple(sample for sample in samples if sample.category in wanted)
        if generators is not None:
            wanted = _known("generator", generators, self.generators, self.root)
            samples = tuple(sample for sample in samples if sample.generator in wanted)
        return replace(self, samples=samples)

    def by_generator(self) -> dict[str, Collection]:
        """One collection for each generator, sorted by name."""
        return {name: self.select(generators=[name]) for name in self.generators}

    def describe(self) -> str:
        """What was found, for a reader: layout, counts, and a line for each generator and class."""
        counts = Counter((sample.generator, sample.category, sample.label) for sample in self.samples)
        groups = sorted({(generator, category) for generator, category, _ in counts})
        width = max((len("/".join(group)) for group in groups), default=0)
        split = f"split {self.split}" if self.split else "all splits"
        reals, fakes = self.labels.count(REAL), self.labels.count(FAKE)
        lines = [f"{self.root}: {self.layout} layout, {split}, {len(self)} images ({reals} real, {fakes} fake)"]
        for generator, category in groups:
            name = f"{generator}/{category}" if category else generator
            reals, fakes = counts[generator, category, REAL], counts[generator, category, FAKE]
            lines.append(f"  {name:<{width}}  {reals:>7} real  {fakes:>7} fake")
        if self.ignored:
            lines.append(f"  {self.ignored} other files ignored")
        return "\n".join(lines)


def find_images(root: str | os.PathLike[str], split: str | None = None) -> Collection:
    """Looks for real and fake images under a folder.

    Args:
        root: a data set, or one of its split, generator or class folders. Links are followed; hidden files and
            folders are not looked at.
        split: "train", "val" or "test" for that split only; None for everything there is.

    Returns:
        The images, sorted by path. A generator that no folder names takes the data set's name.

    Raises:
        DataError: the root is no folder, the split is not in it, or no image lies in a labelled folder.

    Example:
        Of a folder `data` with two images in `real` and three in `fake`:

        >>> from detector.data import find_images
        >>> images = find_images("data")
        >>> images.layout, len(images), images.labels
        ('plain', 5, [1, 1, 1, 0, 0])
        >>> images.samples[0].path.as_posix()
        'data/fake/0.png'
    """
    root = Path(root)
    _check_split(split)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder" if root.exists() else f"{root} does not exist")
    folders = list(_labelled_folders(root))
    wanted = [folder for folder in folders if split in (None, folder.split)]
    samples, ignored = [], 0
    for folder in wanted:
        files, others = list_images(folder.path)
        samples += [Sample(file, folder.label, folder.generator, folder.category) for file in files]
        ignored += others
    if not samples:
        raise DataError(_nothing_found(root, split, folders, wanted))
    layout = " + ".join(sorted({folder.layout for folder in wanted}))
    return Collection(root, layout, split, tuple(sorted(samples, key=lambda sample: sample.path)), ignored)


def has_split(root: str | os.PathLike[str], split: str) -> bool:
    """Whether labelled folders of the split ("train", "val" or "test") lie under the root, or the root is the split."""
    _check_split(split)
    return any(folder.split == split for folder in _labelled_folders(Path(root)))


def label_of(folder: str) -> int | None:
    """REAL or FAKE where a folder of this name labels every image below it, else None."""
    label = _LABELS.get(folder.lower())
    return None if label is None else label[0]


@dataclass(frozen=True)
class _LabelledFolder:
    path: Path
    layout: str
    label: int
    split: str | None
    generator: str
    category: str


def _labelled_folders(root: Path) -> Iterator[_LabelledFolder]:
    """Folders at or below the root whose name is a label; nothing inside them is taken for another label."""
    fallback, context = _context(root)
    for path, folders, _ in _walk(root):
        for name in [name for name in folders if name.lower() in _LABELS]:
            folders.remove(name)  # the walk descends into what is left
            label, layout = _LABELS[name.lower()]
            above = path.relative_to(root).parts
            if not any(part in SPLITS for part in above):
                above = (*context, *above)
            yield _LabelledFolder(path / name, layout, label, *_interpret(above, fallback))


def _context(root: Path) -> tuple[str, tuple[str, ...]]:
    """Where the root is a split folder or lies in one: the data set's name and the names from the split to the root.

    Otherwise the root's own name and nothing.
    """
    parts = root.resolve().parts
    for depth in (1, 2):
        if len(parts) > depth and parts[-depth] in SPLITS:
            return parts[-depth - 1], parts[-depth:]
    return parts[-1], ()


def _interpret(above: tuple[str, ...], fallback: str) -> tuple[str | None, str, str]:
    """Split, generator and class of the folder names that lie above a label.

    In `test`, or where there is no split, the first name is the generator and the rest the class. In `train` and
    `val` a single name is a class, as in ForenSynths, whose training images all come from one unnamed generator.
    A name above the split is a generator's, as in GenImage.
    """
    split_at = next((i for i, name in enumerate(above) if name in SPLITS), None)
    if split_at is None:
        return None, above[0] if above else fallback, "/".join(above[1:])
    before, split, after = above[:split_at], above[split_at], above[split_at + 1 :]
    if split == "test" and after:
        return split, after[0], "/".join(after[1:])
    if before:
        return split, before[0], "/".join(after)
    if len(after) > 1:
        return split, after[0], "/".join(after[1:])
    return split, fallback, "/".join(after)


def _walk(root: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """os.walk in sorted order, through links (each folder once, so that loops end), past everything hidden."""
    visited: set[str] = set()
    for directory, folders, files in os.walk(root, followlinks=True):
        real = os.path.realpath(directory)
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        yield Path(directory), folders, sorted(name for name in files if not is_hidden(name))


def _check_split(split: str | None) -> None:
    if split is not None and split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)} or None, got {split!r}")


def _known(kind: str, names: Iterable[str], existing: tuple[str, ...], root: Path) -> set[str]:
    wanted = set(names)
    if unknown := sorted(wanted - set(existing)):
        raise DataError(f"no {kind} {', '.join(unknown)} in {root}; there are {', '.join(existing) or 'none'}")
    return wanted


def _nothing_found(root: Path, split: str | None, folders: list[_LabelledFolder], wanted: list[_LabelledFolder]) -> str:
    """Says what was looked for and what is there instead."""
    if wanted:
        return f"no image in {', '.join(str(folder.path) for folder in wanted[:4])}"
    if folders:
        splits = sorted({folder.split for folder in folders if folder.split}) or ["no split folders"]
        return f"no {split} split in {root}; there are {', '.join(splits)}"
    here = sorted(entry.name + "/" * entry.is_dir() for entry in root.iterdir() if not is_hidden(entry.name))
    listing = ", ".join(here[:8]) + (", ..." if len(here) > 8 else "")
    return f"no folders of real and fake images in {root}; looked for {_EXPECTED}; there are {listing or 'no files'}"
