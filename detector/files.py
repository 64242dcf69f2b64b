"""Files that are written whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def whole_file(target: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write to in the target's place; it becomes the target when the block ends without an exception.

    Readers see the old file or the new one, and so does who looks after a crash: the data reach the disk before the
    name does. A process that is killed leaves at most the hidden file `.NAME.part`, which the next writer replaces.

    Raises:
        OSError: the target cannot be written.
    """
    target = Path(target)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder, a file is to be written there")
    part = target.with_name(f".{target.name}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(part, target)
        _sync_folder(target.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of the file's content, in hexadecimal. Raises OSError where it cannot be read."""
    with open(path, "rb") as file:
        return sha256_of_stream(file)


def sha256_of_stream(stream: BinaryIO) -> str:
    """SHA-256 of what is left of a stream, in hexadecimal. Raises OSError where it cannot be read."""
    digest = hashlib.sha256()
    while piece := stream.read(2**20):
        digest.update(piece)
    return digest.hexdigest()


def write_text(target: str | os.PathLike[str], text: str) -> None:
    """Writes the text, as UTF-8, whole or not at all."""
    with whole_file(target) as part:
        part.write_text(text, encoding="utf-8", newline="")


def check_writable(target: str | os.PathLike[str]) -> None:
    """Says before long work, not after it, that a result could not be written.

    Raises:
        OSError: the target is a folder, or its folder is missing or not writable.
    """
    target = Path(target)
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {target}: it is a folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"cannot write {target}: there is no folder {target.parent}")
    if not os.access(target.parent, os.W_OK):
        raise PermissionError(f"cannot write {target}: the folder {target.parent} is not writable")


def _sync_folder(folder: Path) -> None:
    """Makes a rename in the folder durable, where the system can open folders."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
