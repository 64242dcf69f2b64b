"""Where a path leads: to a file of this machine, or by a URI to an object of a store.

URIs that pyarrow knows (s3://, gs://, hdfs://, file:// ...) are opened with it, others with fsspec (https://, zip://
...), where the packages that they need are installed. What follows a question mark is for the store's client, as in
s3://bucket/name?region=eu-north-1; a question mark or a per cent sign of a name is quoted, %3F and %25.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs

_URI = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


class UnreachableError(OSError):
    """The object of a URI; the message ends a sentence that starts with the URI."""


class StoreError(OSError):
    """The store itself, which does not answer now or lists nothing: no word on the objects in it."""


_NOT_NOW = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|THROTTLING|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT)|"
    r"HTTP status (400|429|5\d\d)|\bUNAVAILABLE\b"
)
"""In what pyarrow says of S3 and of GCS, for it has no types of errors, after its client has tried several times. S3
answers 400 where a token has expired, if the question was for an object's size, which comes first."""


def is_uri(path: str) -> bool:
    return _URI.match(path) is not None


def suffix_of(path: str) -> str:
    """In lower case, of a path or a URI."""
    return os.path.splitext(path.partition("?")[0] if is_uri(path) else path)[1].lower()


@contextmanager
def opened(path: str) -> Iterator[Any]:
    """A file of this machine or of a store, for pyarrow's readers and for `read`.

    Raises:
        OSError: it cannot be opened; UnreachableError or StoreError of a URI.
    """
    if not is_uri(path):
        with open(path, "rb") as file:
            yield file
        return
    with _said(path):
        system, place = _locate(path)  # fsspec closes some files with what opened them, so it is kept until the end
        source = system.open_input_file(place)
    with source:
        yield source


def read_uri(uri: str, admit: Callable[[int], None]) -> bytes:
    """All of an object.

    Args:
        admit: told its size before it is read.

    Raises:
        UnreachableError: it cannot be read. StoreError: nothing can, for now.
    """
    with _said(uri), opened(uri) as file:
        admit(file.size())
        return file.read()


def files_below(uri: str) -> Iterator[str]:
    """The URIs of all files below a folder of a store, sorted; the URI itself where it is no folder.

    Raises:
        UnreachableError: it names no store. StoreError: the store does not answer, or does not list what it has.
    """
    with _said(uri):
        system, root = _locate(uri)
    with _said(uri, listing=True):
        if system.get_file_info(root).type != fs.FileType.Directory:
            yield uri
            return
        found = system.get_file_info(fs.FileSelector(root, recursive=True))
    base, mark, query = uri.partition("?")
    base, length = base.rstrip("/"), len(root.rstrip("/"))
    names = (quote(info.path[length:]) for info in found if info.type == fs.FileType.File)
    yield from sorted(f"{base}{name}{mark}{query}" for name in names)


@contextmanager
def _said(uri: str, *, listing: bool = False) -> Iterator[None]:
    """Whatever a store's client raises, as an error of one line."""
    try:
        yield
    except (UnreachableError, StoreError):
        raise
    except Exception as error:
        said = f"cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
        if listing or _NOT_NOW.search(said):
            raise StoreError(f"{uri} {said}") from error
        raise UnreachableError(said) from error


def _locate(uri: str) -> tuple[fs.FileSystem, str]:
    """The store, and the path in it."""
    parts = urlsplit(uri, allow_fragments=False)  # an object's name may have a number sign
    try:
        system, root = _system(parts.scheme, parts.netloc, parts.query)
    except pa.ArrowInvalid as error:  # of a scheme that pyarrow does not know, mostly
        from fsspec.core import url_to_fs

        try:
            other, path = url_to_fs(uri)
        except ImportError as missing:
            raise ImportError(f"{error}; {missing}") from error
        return fs.PyFileSystem(fs.FSSpecHandler(other)), path
    return system, root.rstrip("/") + unquote(parts.path)


@functools.lru_cache(maxsize=16)
def _system(scheme: str, place: str, query: str) -> tuple[fs.FileSystem, str]:
    """The store at a place and the path of its root: made once, for clients of stores start with questions to them."""
    return fs.FileSystem.from_uri(f"{scheme}://{place}/" + (f"?{query}" if query else ""))
