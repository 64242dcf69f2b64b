"""JPEG files: their segments up to the first scan, by ITU-T T.81, Annex B.

Sources: Exif 2.32 for APP1, Adobe's XMP specification, part 3, for XMP in APP1, ICC.1:2022, Annex B.4, for APP2, and
ISO/IEC 19566-5 for the JUMBF boxes in APP11.
"""

from __future__ import annotations

from dataclasses import dataclass

from detector.facts.c2pa import is_manifest_store
from detector.facts.contents import Contents
from detector.facts.quantisation import estimate_quality, tables_digest
from detector.facts.source import MAX_PARTS, MAX_PIECE, Damaged, Source, decode_text

START = b"\xff\xd8\xff"

_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_ICC = b"ICC_PROFILE\0"

_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD8)})
_DQT, _SOS, _EOI, _COM = 0xDB, 0xDA, 0xD9, 0xFE
_APP1, _APP2, _APP11 = 0xE1, 0xE2, 0xEB

_RATIOS = {
    (1, 1): "4:4:4",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
    (4, 2): "4:1:0",
}


@dataclass(frozen=True)
class Jpeg:
    """How an image was compressed.

    Attributes:
        quality: 1..100, as libjpeg counts, see :func:`detector.facts.quantisation.estimate_quality`; None where the
            file names tables that it does not hold.
        exact: whether the tables are libjpeg's of that quality; else it is the nearest.
        tables: digest of the quantisation tables.
        subsampling: of chroma, "4:2:0" and the like, or sampling factors as "2x1,1x2,1x1"; None without chroma.
        progressive: coded in scans of growing detail.
    """

    quality: int | None
    exact: bool
    tables: str | None
    subsampling: str | None
    progressive: bool


def read_jpeg(source: Source, contents: Contents) -> None:
    """Fills the contents.

    Raises:
        Damaged: the segments break off; the contents hold what came before.
    """
    icc: dict[int, bytes] = {}
    try:
        for marker, start, length in _segments(source):
            if marker == _DQT:
                _read_tables(source.read(start, length), contents)
            elif marker in _SOF:
                _read_frame(source.read(start, length), contents)
                contents.progressive = marker in _PROGRESSIVE
            elif marker == _COM:
                contents.texts.append(("comment", decode_text(source.read(start, length))))
            elif marker == _APP1:
                _read_app1(source.read(start, length), contents)
            elif marker == _APP2:
                _read_icc(source.read(start, length), icc)
            elif marker == _APP11:
                # "JP", the box's and the packet's number, then the box itself or its next part.
                head = source.read(start, min(length, 64))
                contents.c2pa |= head.startswith(b"JP") and is_manifest_store(head[8:])
    finally:
        if icc:
            contents.icc = b"".join(icc[number] for number in sorted(icc))


def describe(contents: Contents) -> Jpeg | None:
    """How it was compressed; None where the file breaks off before it says so."""
    if not contents.components:
        return None
    numbers = [table for *_, table in contents.components]
    tables = [contents.tables[number] for number in numbers if number in contents.tables]
    quality = estimate_quality(tables) if len(tables) == len(numbers) else None
    return Jpeg(
        quality=quality.value if quality else None,
        exact=quality is not None and quality.exact,
        tables=tables_digest(tables) if quality else None,
        subsampling=_subsampling([(across, down) for across, down, _ in contents.components]),
        progressive=contents.progressive,
    )


def _segments(source: Source):
    """Marker, and where its payload starts and how long it is, of each segment before the first scan."""
    offset = 2
    for _ in range(MAX_PARTS):
        prefix, marker = source.read(offset, 2)
        if prefix != 0xFF:
            raise Damaged(f"has no marker at byte {offset}")
        if marker == 0xFF:  # a fill byte
            offset += 1
            continue
        offset += 2
        if marker in _WITHOUT_LENGTH:
            continue
        if marker in (_SOS, _EOI):
            return
        length = int.from_bytes(source.read(offset, 2), "big")
        if length < 2:
            raise Damaged(f"has a segment of length {length} at byte {offset}")
        yield marker, offset + 2, length - 2
        offset += length
    raise Damaged(f"has more than {MAX_PARTS} segments")


def _read_tables(data: bytes, contents: Contents) -> None:
    while data:
        wide, number = data[0] >> 4, data[0] & 15
        size = 128 if wide else 64
        if wide > 1 or len(data) < 1 + size:
            raise Damaged("has a broken quantisation table")
        values = data[1 : 1 + size]
        contents.tables[number] = (
            tuple(int.from_bytes(values[i : i + 2], "big") for i in range(0, size, 2)) if wide else tuple(values)
        )
        data = data[1 + size :]


def _read_frame(data: bytes, contents: Contents) -> None:
    if len(data) < 6 or len(data) < 6 + 3 * data[5]:
        raise Damaged("has a broken frame header")
    contents.depth = data[0]
    contents.height, contents.width = int.from_bytes(data[1:3], "big"), int.from_bytes(data[3:5], "big")
    parts = [data[at : at + 3] for at in range(6, 6 + 3 * data[5], 3)]
    contents.components = [(part[1] >> 4, part[1] & 15, part[2]) for part in parts]
    contents.mode = {1: "L", 3: "RGB", 4: "CMYK"}.get(len(parts))


def _read_app1(data: bytes, contents: Contents) -> None:
    if data.startswith(_EXIF) and contents.exif is None:
        contents.exif = data[len(_EXIF) :]
    elif data.startswith(_XMP) and contents.xmp is None:
        contents.xmp = data[len(_XMP) :]


def _read_icc(data: bytes, pieces: dict[int, bytes]) -> None:
    """A profile's piece, by its number."""
    if data.startswith(_ICC) and len(data) >= len(_ICC) + 2:
        pieces[data[len(_ICC)]] = data[len(_ICC) + 2 :]
        if sum(map(len, pieces.values())) > MAX_PIECE:
            raise Damaged(f"has a colour profile of more than {MAX_PIECE} bytes")


def _subsampling(factors: list[tuple[int, int]]) -> str | None:
    if len(factors) < 3:
        return None
    (across, down), (across_1, down_1) = factors[:2]
    if factors[1] == factors[2] and factors[3:] in ([], [factors[0]]) and across_1 and down_1:
        ratio = across / across_1, down / down_1
        if ratio in _RATIOS:
            return _RATIOS[ratio]  # type: ignore[index]
    return ",".join(f"{across}x{down}" for across, down in factors)
