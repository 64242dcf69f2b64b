"""Image files, found by looking: below a folder, and what a command's arguments mean.

Needs nothing but the standard library, so that a process that lists files starts without waiting for torch.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

IMAGE_SUFFIXES = frozenset(
    {
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jpeg",
        ".jpg",
        ".pbm",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tif",
        ".tiff",
        ".webp",
    }
)
"""Of names, in lower case."""


def find_paths(arguments: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """The files that a command's arguments mean, in their order.

    Args:
        arguments: files, of whatever name; folders, in which images are found by their extension, subfolders included;
            or patterns with `*`, `?`, `[...]` and `**`, for shells that leave them alone.

    Yields:
        Paths, each with None; an argument that means no file, with what is wrong with it.
    """
    for argument in arguments:
        if os.path.isdir(argument):
            yield from _images_in(argument)
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            yield from find_paths(matches) if matches else [(argument, "matches no file")]
        else:
            yield argument, None


def list_images(folder: str | os.PathLike[str]) -> tuple[list[Path], int]:
    """Image files below a folder, as :func:`iterate_images` gives them, and the number of other files."""
    images, others = [], 0
    for path in _files(Path(folder), set()):
        if _is_image(path):
            images.append(path)
        else:
            others += 1
    return images, others


def iterate_images(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Image files below a folder, told by their extension in any case, in sorted order.

    Found as they are drawn, with no more in memory than the names in one folder and in those above it. Links are
    followed, each folder once; hidden files and folders do not count, nor do subfolders that cannot be read.

    Raises:
        OSError: the folder itself cannot be read.
    """
    return filter(_is_image, _files(Path(folder), set()))


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _files(folder: Path, visited: set[str]) -> Iterator[Path]:
    """All files below a folder but those hidden, sorted as paths are, part by part."""
    real = os.path.realpath(folder)
    if real in visited:
        return
    visited.add(real)
    names, folders = [], set()
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            names.append(entry.name)
            if _is_folder(entry):
                folders.add(entry.name)
    for name in sorted(names):
        if name not in folders:
            yield folder / name
            continue
        try:
            yield from _files(folder / name, visited)
        except OSError:
            continue


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle, for one
        return False


def is_hidden(name: str) -> bool:
    """Whether files and folders of the name are passed over."""
    return name.startswith(".") or name == "__MACOSX"


def _images_in(folder: str) -> Iterator[tuple[str, str | None]]:
    empty = True
    try:
        for image in iterate_images(folder):
            empty = False
            yield str(image), None
    except OSError as error:
        yield folder, f"cannot be read ({error.strerror})"
        return
    if empty:
        yield folder, "is a folder without images"
