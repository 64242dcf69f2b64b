"""TIFF structures, which EXIF is too: who made an image, with what and when (Exif 2.32; TIFF 6.0)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detector.facts.contents import Contents
from detector.facts.source import MAX_PIECE, Damaged, Source, clean, decode_text

STARTS = (b"II*\0", b"MM\0*")

Read = Callable[[int, int], bytes]
"""Offset and length -> exactly so many bytes; raises Damaged where they are not there."""

_WIDTH, _HEIGHT = 0x0100, 0x0101
_MAKE, _MODEL, _ORIENTATION, _SOFTWARE, _DATE = 0x010F, 0x0110, 0x0112, 0x0131, 0x0132
_DESCRIPTION, _XMP, _EXIF, _ICC, _C2PA = 0x010E, 700, 0x8769, 34675, 52545
_TAKEN, _COMMENT = 0x9003, 0x9286

_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_WHOLE = {1: 1, 3: 2, 4: 4, 13: 4}  # types of unsigned whole numbers

_MOST_ENTRIES = 1000


@dataclass(frozen=True)
class Exif:
    """Texts as the file has them, made safe to show; None where it says nothing.

    Attributes:
        make, model: of the camera.
        software: that wrote the image.
        date: when it was taken, else when the file was changed.
        orientation: 1..8, 1 being upright; other numbers as they are.
    """

    make: str | None = None
    model: str | None = None
    software: str | None = None
    date: str | None = None
    orientation: int | None = None


def read_exif(data: bytes, contents: Contents) -> Exif:
    """The fields; descriptions and comments are added to the contents' texts.

    Args:
        data: a TIFF structure, as JPEG, PNG and WebP hold it.

    Raises:
        Damaged: its directory cannot be read.
    """

    def read(offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > len(data):
            raise Damaged("ends early")
        return data[offset : offset + length]

    return _fields(_Directories(read, contents.problems), contents)


def read_tiff(source: Source, contents: Contents) -> Exif | None:
    """The fields of a TIFF file's first image; its size, XMP, profile, texts and C2PA are added to the contents.

    Returns:
        None where there is no such field: every TIFF file has a directory.

    Raises:
        Damaged: its directory cannot be read.
    """
    directories = _Directories(source.read, contents.problems)
    # Pillow gives the size that the orientation leads to.
    contents.width, contents.height = directories.number(_WIDTH), directories.number(_HEIGHT)
    contents.xmp = directories.value(_XMP)
    contents.icc = directories.value(_ICC)
    contents.c2pa = _C2PA in directories.main
    found = _fields(directories, contents)
    return None if found == Exif() else found


class _Directories:
    """The first image's directory and its EXIF directory: entries by tag."""

    def __init__(self, read: Read, problems: list[str]) -> None:
        head = read(0, 8)
        if head[:4] not in STARTS:
            raise Damaged("is no TIFF structure")
        self._order = "little" if head[:2] == b"II" else "big"
        self._read = read
        self.main = self._entries(self._int(head[4:8]))
        self.exif: dict[int, bytes] = {}
        if (exif := self.number(_EXIF)) is not None:
            try:
                self.exif = self._entries(exif)
            except Damaged as error:
                problems.append(f"the EXIF directory {error}")

    def value(self, tag: int) -> bytes | None:
        """A field's bytes; None where there is none or it lies outside."""
        entry = self.main.get(tag) or self.exif.get(tag)
        if entry is None:
            return None
        kind, count = self._int(entry[2:4]), self._int(entry[4:8])
        length = _SIZES.get(kind, 0) * count
        if length <= 4:
            return entry[8 : 8 + length]
        if length > MAX_PIECE:
            return None
        try:
            return self._read(self._int(entry[8:12]), length)
        except Damaged:
            return None

    def number(self, tag: int) -> int | None:
        """The first of a field's whole numbers."""
        entry = self.main.get(tag) or self.exif.get(tag)
        size = None if entry is None else _WHOLE.get(self._int(entry[2:4]))
        value = None if size is None else self.value(tag)
        return self._int(value[:size]) if value else None

    def text(self, tag: int) -> str | None:
        value = self.value(tag)
        return None if value is None else decode_text(value)

    @property
    def big_endian(self) -> bool:
        return self._order == "big"

    def _entries(self, offset: int) -> dict[int, bytes]:
        count = min(self._int(self._read(offset, 2)), _MOST_ENTRIES)
        table = self._read(offset + 2, 12 * count)
        entries = (table[at : at + 12] for at in range(0, len(table), 12))
        return {self._int(entry[:2]): entry for entry in entries}

    def _int(self, data: bytes) -> int:
        return int.from_bytes(data, self._order)  # type: ignore[arg-type]


def _fields(directories: _Directories, contents: Contents) -> Exif:
    texts = {tag: directories.text(tag) for tag in (_MAKE, _MODEL, _SOFTWARE, _DATE, _TAKEN, _DESCRIPTION)}
    # Generators write what they were asked for here, ComfyUI even in the camera's make and model.
    for tag, name in ((_DESCRIPTION, "ImageDescription"), (_MAKE, "Make"), (_MODEL, "Model")):
        if text := texts[tag]:
            contents.texts.append((f"EXIF {name}", text))
    if (comment := directories.value(_COMMENT)) and (text := _comment(comment, directories.big_endian)):
        contents.texts.append(("EXIF UserComment", text))
    shown = {tag: clean(text) if text else None for tag, text in texts.items()}
    return Exif(
        make=shown[_MAKE] or None,
        model=shown[_MODEL] or None,
        software=shown[_SOFTWARE] or None,
        date=shown[_TAKEN] or shown[_DATE] or None,
        orientation=directories.number(_ORIENTATION),
    )


def _comment(data: bytes, big_endian: bool) -> str:
    """A UserComment: eight bytes that name its character code, then the text."""
    code, text = data[:8], data[8:]
    if code != b"UNICODE\0":
        return decode_text(text.lstrip(b"\0"))
    # The order of bytes should be the structure's, but common writers store big-endian text in any: in text that is
    # Latin for the most part, the zeros tell.
    high, low = text[0::2].count(0), text[1::2].count(0)
    if high != low:
        big_endian = high > low
    return text.decode("utf-16-be" if big_endian else "utf-16-le", "replace").strip("\0\ufeff")
