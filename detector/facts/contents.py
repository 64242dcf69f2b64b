"""What a container holds, before it is interpreted."""

from __future__ import annotations

from dataclasses import dataclass, field

from detector.facts.quantisation import Tables


@dataclass
class Contents:
    """Filled while a file is read, so that what comes before damage is kept.

    Attributes:
        width, height: as stored, before any orientation.
        mode: "1", "L", "LA", "P", "RGB", "RGBA", "CMYK" or another of Pillow's names, without the bit depth.
        depth: bits a sample.
        exif: a TIFF structure.
        xmp: a packet.
        icc: a profile.
        texts: pairs of a place ("parameters", "comment") and what it says.
        c2pa: whether there is a C2PA manifest store.
        components: of a JPEG, each its horizontal and vertical sampling factor and its table's number.
        tables: of a JPEG, quantisation tables by number, in zigzag order.
        progressive: whether a JPEG is.
        webp: "lossy" or "lossless".
        problems: what could not be read, a sentence each.
    """

    width: int | None = None
    height: int | None = None
    mode: str | None = None
    depth: int | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    icc: bytes | None = None
    texts: list[tuple[str, str]] = field(default_factory=list)
    c2pa: bool = False
    components: list[tuple[int, int, int]] = field(default_factory=list)
    tables: Tables = field(default_factory=dict)
    progressive: bool = False
    webp: str | None = None
    problems: list[str] = field(default_factory=list)
