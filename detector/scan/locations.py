"""Where a path leads: to a file of this machine, or by a URI to an object of a store.

URIs that pyarrow knows (s3://, gs://, hdfs://, file:// ...) are opened with it, others with fsspec (https://, zip://
...), where the packages that they need are installed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

_URI = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class UnreachableError(OSError):
    """The store of a URI, or the object in it; the message ends a sentence that starts with the URI."""


def is_uri(path: str) -> bool:
    return _URI.match(path) is not None


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A file of this machine or of a store, for pyarrow's readers and for `read`.

    Raises:
        OSError: it cannot be opened; UnreachableError of a URI.
    """
    if not is_uri(path):
        with open(path, "rb") as file:
            yield file
        return
    with _said():
        system, place = _locate(path)  # fsspec closes some files with what opened them, so it is kept until the end
        source = system.open_input_file(place)
    with source:
        yield source


def read_uri(uri: str, admit: Callable[[int], None]) -> bytes:
    """All of an object.

    Args:
        admit: told its size before it is read.

    Raises:
        UnreachableError: it cannot be read.
    """
    with _said(), opened(uri) as file:
        admit(file.size())
        return file.read()


def files_below(uri: str) -> Iterator[str]:
    """The URIs of all files below a folder of a store, sorted; the URI itself where it is no folder.

    Raises:
        UnreachableError: the store cannot be asked.
    """
    with _said():
        system, root = _locate(uri)
        if system.get_file_info(root).type != fs.FileType.Directory:
            yield uri
            return
        found = system.get_file_info(fs.FileSelector(root, recursive=True))
    base, length = uri.rstrip("/"), len(root.rstrip("/"))
    yield from sorted(base + quote(info.path[length:]) for info in found if info.type == fs.FileType.File)


@contextmanager
def _said() -> Iterator[None]:
    """Whatever a store's client raises, as an UnreachableError of one line."""
    try:
        yield
    except UnreachableError:
        raise
    except Exception as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise UnreachableError(f"cannot be read ({said})") from error


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    """The store, and the path in it."""
    parts = urlsplit(uri)
    try:
        system, root = _system(parts.scheme, parts.netloc, parts.query)
    except pa.ArrowInvalid:  # of a scheme that pyarrow does not know
        from fsspec.core import url_to_fs

        other, path = url_to_fs(uri)
        return fs.PyFileSystem(fs.FSSpecHandler(other)), path
    return system, root.rstrip("/") + unquote(parts.path)


@functools.lru_cache(maxsize=16)
def _system(scheme: str, place: str, query: str) -> tuple[fs.FileSystem, str]:
    """The store at a place and the path of its root: made once, for clients of stores start with questions to them."""
    return fs.FileSystem.from_uri(f"{scheme}://{place}/" + (f"?{query}" if query else ""))
