"""Bytes read in bounded pieces, and text made safe to show: whoever wrote a file may wish its reader harm."""

from __future__ import annotations

import unicodedata
import zlib
from typing import BinaryIO

MAX_PIECE = 2**22
"""Most bytes of one piece of metadata, before and after it is inflated."""

MAX_TOTAL = 2**25
"""Most bytes read and inflated of one file."""

MAX_PARTS = 2**17
"""Most segments, chunks or boxes of one file."""

# Characters of one value that people are shown; a camera's name is shorter, and a prompt is cut.
_SHOWN = 200


class Damaged(ValueError):
    """Metadata that breaks its format's rules, or goes beyond the bounds above; its text completes "EXIF ..."."""


class Source:
    """A file, or a part of one, read at offsets.

    Args:
        file: a binary file that can be sought.
        size: of it in bytes.
    """

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.size = size
        self._file = file
        self._left = MAX_TOTAL

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes.

        Raises:
            Damaged: they are not all there, or too many.
            OSError: the file cannot be read.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise Damaged("ends early")
        if length > MAX_PIECE:
            raise Damaged(f"has a piece of {length} bytes, more than {MAX_PIECE}")
        self._spend(length)
        self._file.seek(offset)
        piece = self._file.read(length)
        if len(piece) < length:
            raise Damaged("ends early")
        return piece

    def inflate(self, data: bytes) -> bytes:
        """What zlib had deflated.

        Raises:
            Damaged: it is no such stream, ends early, or holds too much.
        """
        stream = zlib.decompressobj()
        try:
            inflated = stream.decompress(data, MAX_PIECE)
        except zlib.error as error:
            raise Damaged(f"cannot be inflated ({error})") from error
        self._spend(len(inflated))
        if not stream.eof:
            more = len(inflated) == MAX_PIECE
            raise Damaged(f"inflates to more than {MAX_PIECE} bytes" if more else "ends early")
        return inflated

    def _spend(self, length: int) -> None:
        self._left -= length
        if self._left < 0:
            raise Damaged(f"has more than {MAX_TOTAL} bytes of metadata")


def decode_text(data: bytes) -> str:
    """Text of an unstated encoding, up to its first NUL: UTF-8 if it can be, else Latin-1."""
    data = data.partition(b"\0")[0]
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def clean(text: str) -> str:
    """On one line, cut after 200 characters, without what a terminal or a page would obey (controls, directions)."""
    cut = text[: 4 * _SHOWN]
    shown = "".join(" " if unicodedata.category(character)[0] in "CZ" else character for character in cut)
    shown = " ".join(shown.split())
    whole = len(shown) <= _SHOWN and len(text) <= len(cut)
    return shown if whole else shown[: _SHOWN - 1] + "…"
