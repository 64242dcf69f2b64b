"""The facts that an audit looks at: one line each in one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from detector.audit.pixels import PixelFacts
from detector.audit.reading import Record
from detector.facts import Facts
from detector.facts.jpeg import Jpeg

FILE, SIZE, COMPRESSION, METADATA, PIXELS = "file", "size", "compression", "metadata", "pixels"

NONE = "none"
"""The category of files without the metadata."""


@dataclass(frozen=True)
class Fact:
    """Something that differs from image to image.

    Attributes:
        name: in tables.
        kind: FILE, SIZE, COMPRESSION, METADATA or PIXELS. Generators leave their traces in pixels, and subjects show
            there; so only facts of the other kinds are leaks for certain.
        value: of a record: a number, or a category's name; None where it has none, and such images do not count.
        unit: of numbers, "" for none.
    """

    name: str
    kind: str
    value: Callable[[Record], float | str | None]
    unit: str = ""


def _bytes_per_pixel(facts: Facts) -> float | None:
    pixels = (facts.width or 0) * (facts.height or 0)
    return facts.bytes / pixels if facts.bytes and pixels else None


def _mode(facts: Facts) -> str | None:
    if facts.mode is None or facts.depth in (None, 8):
        return facts.mode
    return f"{facts.mode}, {facts.depth} bits"


def _size(facts: Facts) -> str | None:
    return f"{facts.width}x{facts.height}" if facts.width and facts.height else None


def _metadata(facts: Facts) -> str:
    there = {
        "EXIF": facts.exif,
        "XMP": facts.xmp,
        "ICC": facts.icc_profile,
        "C2PA": facts.c2pa,
        "text": facts.texts,
    }
    return " + ".join(name for name, value in there.items() if value) or NONE


def _camera(facts: Facts) -> str:
    return " ".join(filter(None, (facts.exif.make, facts.exif.model))) if facts.exif else ""


def _software(facts: Facts) -> str:
    """The first that is named: by the generator's text, C2PA, EXIF, XMP."""
    named = [generator.tool for generator in facts.generators]
    named += [facts.c2pa.claim_generator or ""] if facts.c2pa else []
    named += [facts.exif.software or ""] if facts.exif else []
    named += [facts.xmp.creator_tool or ""] if facts.xmp else []
    return next(filter(None, named), "")


def _origin(facts: Facts) -> str:
    """The digital source type of XMP, or of C2PA."""
    types = [facts.xmp.term or ""] if facts.xmp else []
    types += facts.c2pa.digital_source_types if facts.c2pa else []
    return next(filter(None, types), "")


def _of_jpeg(value: Callable[[Jpeg], float | str | None]) -> Callable[[Facts], float | str | None]:
    return lambda facts: None if facts.jpeg is None else value(facts.jpeg)


def _of_file(name: str, kind: str, value: Callable[[Facts], float | str | None], unit: str = "") -> Fact:
    return Fact(name, kind, lambda record: value(record.facts), unit)


def _of_pixels(name: str, value: Callable[[PixelFacts], float | None], unit: str = "") -> Fact:
    return Fact(name, PIXELS, lambda record: value(record.pixels), unit)


FACTS: tuple[Fact, ...] = (
    _of_file("format", FILE, lambda facts: " ".join(filter(None, (facts.webp, facts.format))) or None),
    _of_file("file size", FILE, lambda facts: facts.bytes, "bytes"),
    _of_file("bytes per pixel", FILE, _bytes_per_pixel),
    _of_file("colour mode", FILE, _mode),
    _of_file("width", SIZE, lambda facts: facts.width, "px"),
    _of_file("height", SIZE, lambda facts: facts.height, "px"),
    _of_file("aspect", SIZE, lambda facts: facts.aspect),
    _of_file("width x height", SIZE, _size),
    _of_file("JPEG quality", COMPRESSION, _of_jpeg(lambda jpeg: jpeg.quality)),
    _of_file("JPEG tables", COMPRESSION, _of_jpeg(lambda jpeg: jpeg.tables)),
    _of_file("chroma subsampling", COMPRESSION, _of_jpeg(lambda jpeg: jpeg.subsampling or "grey")),
    _of_file("progressive", COMPRESSION, _of_jpeg(lambda jpeg: ("no", "yes")[jpeg.progressive])),
    _of_file("metadata present", METADATA, _metadata),
    _of_file("colour profile", METADATA, lambda facts: facts.icc_profile or NONE),
    _of_file("camera named", METADATA, lambda facts: _camera(facts) or NONE),
    _of_file("software named", METADATA, lambda facts: _software(facts) or NONE),
    _of_file("origin named", METADATA, lambda facts: _origin(facts) or NONE),
    _of_pixels("comb of period 2", lambda pixels: pixels.comb_2, "dB"),
    _of_pixels("comb of period 4", lambda pixels: pixels.comb_4, "dB"),
    _of_pixels("comb of period 8", lambda pixels: pixels.comb_8, "dB"),
    _of_pixels("noise", lambda pixels: pixels.noise, "grey levels"),
    _of_pixels("saturation", lambda pixels: pixels.saturation),
    _of_pixels("brightness", lambda pixels: pixels.brightness, "grey levels"),
    _of_pixels("contrast", lambda pixels: pixels.contrast, "grey levels"),
    _of_pixels("clipped samples", lambda pixels: pixels.clipped),
    _of_pixels("chroma detail", lambda pixels: pixels.chroma_detail),
)
