"""PNG files: header, text, profile, EXIF, XMP and C2PA chunks, by the W3C's PNG specification, third edition (2025).

The C2PA specification names the chunk caBX. Check sums are not verified: facts are read of damaged files too.
"""

from __future__ import annotations

from detector.facts.c2pa import is_manifest_store
from detector.facts.contents import Contents
from detector.facts.source import MAX_PARTS, Damaged, Source

START = b"\x89PNG\r\n\x1a\n"

_XMP = "XML:com.adobe.xmp"
_MODES = {0: "L", 2: "RGB", 3: "P", 4: "LA", 6: "RGBA"}


def read_png(source: Source, contents: Contents) -> None:
    """Fills the contents; a chunk that cannot be read is passed over.

    Raises:
        Damaged: the chunks break off; the contents hold what came before.
    """
    offset = len(START)
    for _ in range(MAX_PARTS):
        head = source.read(offset, 8)
        length, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            return
        if reader := _READERS.get(kind):
            try:
                reader(source, source.read(offset + 8, length), contents)
            except Damaged as error:
                contents.problems.append(f"chunk {kind.decode('ascii')} {error}")
        elif kind == b"caBX":
            contents.c2pa |= is_manifest_store(source.read(offset + 8, min(length, 64)))
        offset += 12 + length
    raise Damaged(f"has more than {MAX_PARTS} chunks")


def _read_header(source: Source, data: bytes, contents: Contents) -> None:
    if len(data) != 13:
        raise Damaged(f"has {len(data)} bytes, not 13")
    contents.width, contents.height = int.from_bytes(data[:4], "big"), int.from_bytes(data[4:8], "big")
    contents.depth = data[8]
    contents.mode = "1" if data[8:10] == b"\x01\x00" else _MODES.get(data[9])


def _read_text(source: Source, data: bytes, contents: Contents) -> None:
    keyword, text = _cut(data)
    contents.texts.append((keyword.decode("latin-1"), text.decode("latin-1")))


def _read_compressed_text(source: Source, data: bytes, contents: Contents) -> None:
    keyword, rest = _cut(data)
    contents.texts.append((keyword.decode("latin-1"), source.inflate(rest[1:]).decode("latin-1")))


def _read_international_text(source: Source, data: bytes, contents: Contents) -> None:
    name, rest = _cut(data)
    if len(rest) < 2:
        raise Damaged("ends early")
    compressed = rest[0] == 1
    _, rest = _cut(rest[2:])  # the language
    _, text = _cut(rest)  # the keyword in that language
    text = source.inflate(text) if compressed else text
    keyword = name.decode("latin-1")
    if keyword == _XMP:
        contents.xmp = contents.xmp or text
    else:
        contents.texts.append((keyword, text.decode("utf-8", "replace")))


def _read_profile(source: Source, data: bytes, contents: Contents) -> None:
    _, rest = _cut(data)
    contents.icc = source.inflate(rest[1:])


def _read_exif(source: Source, data: bytes, contents: Contents) -> None:
    contents.exif = data


def _cut(data: bytes) -> tuple[bytes, bytes]:
    """Before and after the first NUL."""
    before, nul, after = data.partition(b"\0")
    if not nul:
        raise Damaged("ends early")
    return before, after


_READERS = {
    b"IHDR": _read_header,
    b"tEXt": _read_text,
    b"zTXt": _read_compressed_text,
    b"iTXt": _read_international_text,
    b"iCCP": _read_profile,
    b"eXIf": _read_exif,
}
