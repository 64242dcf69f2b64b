"""WebP files: their RIFF chunks, by RFC 9649; the C2PA specification adds the chunk C2PA."""

from __future__ import annotations

from detector.facts.c2pa import is_manifest_store
from detector.facts.contents import Contents
from detector.facts.source import MAX_PARTS, Damaged, Source

_EXIF = b"Exif\0\0"


def is_webp(head: bytes) -> bool:
    """Whether a file that starts so, with 12 bytes at least, is WebP."""
    return head[:4] == b"RIFF" and head[8:12] == b"WEBP"


def read_webp(source: Source, contents: Contents) -> None:
    """Fills the contents.

    Raises:
        Damaged: the chunks break off; the contents hold what came before.
    """
    contents.depth = 8
    offset = 12
    for _ in range(MAX_PARTS):
        if source.size - offset < 8:
            return
        head = source.read(offset, 8)
        kind, length = head[:4], int.from_bytes(head[4:], "little")
        offset += 8
        if kind == b"ANMF":  # a frame of an animation: 16 bytes about it, then chunks of its own
            offset += 16
            continue
        _read_chunk(kind, length, source, offset, contents)
        offset += length + length % 2
    raise Damaged(f"has more than {MAX_PARTS} chunks")


def _read_chunk(kind: bytes, length: int, source: Source, start: int, contents: Contents) -> None:
    if kind == b"VP8X":
        data = source.read(start, min(length, 10))
        if len(data) < 10:
            raise Damaged("has a broken header")
        contents.mode = "RGBA" if data[0] & 0x10 else "RGB"
        contents.width = 1 + int.from_bytes(data[4:7], "little")
        contents.height = 1 + int.from_bytes(data[7:10], "little")
    elif kind in (b"VP8 ", b"VP8L") and contents.webp is None:
        contents.webp = "lossless" if kind == b"VP8L" else "lossy"
        data = source.read(start, min(length, 10))
        if len(data) < 10:
            raise Damaged("has a broken image header")
        if contents.width is None:
            _read_size(kind, data, contents)
    elif kind == b"ICCP":
        contents.icc = source.read(start, length)
    elif kind == b"EXIF":
        contents.exif = source.read(start, length).removeprefix(_EXIF)
    elif kind == b"XMP ":
        contents.xmp = source.read(start, length)
    elif kind == b"C2PA":
        contents.c2pa |= is_manifest_store(source.read(start, min(length, 64)))


def _read_size(kind: bytes, data: bytes, contents: Contents) -> None:
    """From the image's own header, where no VP8X came before it."""
    if kind == b"VP8L":
        bits = int.from_bytes(data[1:5], "little")
        contents.width, contents.height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        contents.mode = "RGBA" if bits >> 28 & 1 else "RGB"
    else:
        contents.width = int.from_bytes(data[6:8], "little") & 0x3FFF
        contents.height = int.from_bytes(data[8:10], "little") & 0x3FFF
        contents.mode = "RGB"
