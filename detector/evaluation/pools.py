"""Pools of reals: photographs of one history, that fakes are measured against wherever these come from.

A set's own reals often differ from its fakes in format, size or compression, and many sets have none. A pool has one
history and is the same for every set.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from detector.data import FAKE, IMAGE_SUFFIXES, REAL, Collection, DataError, Sample, label_of, list_images
from detector.evaluation.encodings import JPEG, LOSSLESS, count_encodings
from detector.evaluation.subset import draw_subset

OWN = "own"
"""What a set's own reals are called beside the pools; no pool may be."""


@dataclass(frozen=True)
class Pool:
    """Photographs of one history; or, as `find_folders` finds them, generated images of one origin.

    Attributes:
        name: what tables call it.
        parts: its images, sorted, by the name of the folder or pattern that they were found under.
    """

    name: str
    parts: Mapping[str, Sequence[Path]]

    @property
    def images(self) -> list[Path]:
        return [path for part in self.parts.values() for path in part]


def parse_pools(texts: Iterable[str], what: str = "reals") -> dict[str, list[str]]:
    """Pools' names and items, as they are written on a command line: NAME=ITEM[,ITEM...], or ITEM[,ITEM...] alone.

    Items without a name are called after the first one's folder. A name that comes again adds to its pool.

    Args:
        texts: as written.
        what: an error calls them so.

    Raises:
        ValueError: a text has an empty item.
    """
    pools: dict[str, list[str]] = {}
    for text in texts:
        name, equals, listed = text.partition("=")
        if not equals or not name or os.path.exists(text):
            name, listed = "", text
        items = [item.strip() for item in listed.split(",")]
        if not all(items):
            raise ValueError(f"{what} must be NAME=FOLDER[,FOLDER...] or FOLDER, got {text!r}")
        pools.setdefault(name.strip() or folder_name(items[0]), []).extend(items)
    return pools


def find_pool(name: str, items: Iterable[str], collection: Collection) -> Pool:
    """The pool's images.

    Args:
        name: of the pool.
        items: each is the name of one of the collection's generators, whose reals are meant; or a folder, an image
            file or a glob pattern (`**` for any depth), relative to the collection's root or, where nothing is there,
            to the working directory. Of a folder that holds labelled folders, these folders' reals are meant, else
            every image in it.
        collection: a data set.

    Raises:
        DataError: the name is OWN, an item is not there, has no reals, or is among the collection's fakes.
    """
    if name == OWN:
        raise DataError(f"a pool of reals may not be called {OWN!r}: each set's own reals are")
    fakes = {os.path.realpath(sample.path) for sample in collection.samples if sample.label == FAKE}
    parts = {}
    for item in dict.fromkeys(items):
        images = _reals_of_item(name, item, collection)
        if mixed := [path for path in images if os.path.realpath(path) in fakes]:
            raise DataError(f"pool {name}: {mixed[0]} is a fake of {collection.root}")
        parts[item] = images
    return Pool(name, parts)


def find_folders(name: str, items: Iterable[str], label: int) -> Pool:
    """Images of one label, where there is no data set that they belong to.

    Args:
        name: of the pool.
        items: each is a folder, an image file or a glob pattern (`**` for any depth). Of a folder that holds labelled
            folders, the images of `label` are meant, else every image in it.
        label: REAL or FAKE.

    Raises:
        DataError: an item is not there, or has no image of that label.
    """
    parts = {}
    for item in dict.fromkeys(items):
        matches = _matches(item, Path())
        if not matches:
            raise DataError(f"{name}: {item} does not exist")
        found = sorted({path for match in matches for path in _images_below(match, Path(), label)})
        if not found:
            raise DataError(f"{name}: no {'real' if label == REAL else 'generated'} image in {item}")
        parts[item] = found
    return Pool(name, parts)


def pools_by_encoding(collection: Collection) -> list[Pool]:
    """What can be told of histories from the files' headers alone.

    Returns:
        "lossless", the generators' reals of which every file is stored without loss, and "jpeg", those with JPEG files
        among them; only those that there are. Reals of other encodings are in neither.
    """
    lossless, jpeg = {}, {}
    for generator in collection.generators:
        paths = _reals_of_generator(generator, collection)
        found = count_encodings(paths).keys()
        if found and found <= LOSSLESS:
            lossless[generator] = paths
        elif JPEG in found:
            jpeg[generator] = paths
    return [Pool(name, parts) for name, parts in (("lossless", lossless), ("jpeg", jpeg)) if parts]


def with_pools(collection: Collection, pools: Iterable[Pool]) -> Collection:
    """The collection with the pools' images that it lacks behind its own; each image is there once.

    Added images have the part's name as their generator.
    """
    known = {os.path.realpath(sample.path) for sample in collection.samples}
    added = []
    for pool in pools:
        for part, paths in pool.parts.items():
            for path in paths:
                if (real := os.path.realpath(path)) not in known:
                    known.add(real)
                    added.append(Sample(path, REAL, part, ""))
    return replace(collection, samples=(*collection.samples, *added))


def draw_pool(pool: Pool, collection: Collection, limit: int, seed: int = 0) -> Pool:
    """At most `limit` images of each part; of a whole generator the reals that `draw_subset` draws of it."""
    samples = (Sample(path, REAL, part, "") for part, paths in pool.parts.items() for path in paths)
    drawn = draw_subset(replace(collection, samples=tuple(samples)), limit, seed)
    return Pool(pool.name, {part: _reals_of_generator(part, drawn) for part in pool.parts})


def _reals_of_item(name: str, item: str, collection: Collection) -> list[Path]:
    if item in collection.generators:
        found = _reals_of_generator(item, collection)
        where = f"{item} of {collection.root}"
    else:
        matches = _matches(item, collection.root) or _matches(item, Path())
        if not matches:
            have = [generator for generator in collection.generators if _reals_of_generator(generator, collection)]
            raise DataError(
                f"pool {name}: no {item} in {collection.root} or here; "
                f"folders of reals there are {', '.join(have) or 'none'}"
            )
        found = sorted({path for match in matches for path in _images_below(match, collection.root, REAL)})
        where = item
    if not found:
        raise DataError(f"pool {name}: no real image in {where}")
    return found


def _reals_of_generator(generator: str, collection: Collection) -> list[Path]:
    return [sample.path for sample in collection.samples if (sample.generator, sample.label) == (generator, REAL)]


def _matches(item: str, base: Path) -> list[Path]:
    """What lies at an item or, where nothing has that very name, what it matches as a pattern."""
    path = base / item
    return [path] if path.exists() else [Path(match) for match in sorted(glob.glob(str(path), recursive=True))]


def _images_below(path: Path, root: Path, label: int) -> list[Path]:
    """Images at or below a path that no folder's name gives the other label: one below it, else the next one above."""
    folder = (path if path.is_dir() else path.parent).absolute()
    # Folders above the data set or the working directory have their names by chance.
    base = next((base for base in (root.absolute(), Path.cwd()) if folder.is_relative_to(base)), Path(folder.anchor))
    folder = folder.relative_to(base)
    fitting = _label_of_folders(reversed(folder.parts)) in (label, None)
    if path.is_file():
        return [path] if fitting and path.suffix.lower() in IMAGE_SUFFIXES else []
    images = list_images(path)[0]
    labels = [_label_of_folders(image.relative_to(path).parent.parts) for image in images]
    if all(below is None for below in labels):
        return images if fitting else []
    return [image for image, below in zip(images, labels, strict=True) if below == label]


def _label_of_folders(names: Iterable[str]) -> int | None:
    """Of the first one that has a label."""
    return next((label for name in names if (label := label_of(name)) is not None), None)


def folder_name(item: str) -> str:
    """The last part of a path or pattern that says something."""
    names = [part for part in Path(item).parts if label_of(part) is None and part.strip("*")]
    return names[-1] if names else item
