"""The facts of an image file: what it shows of its making, read from its headers without decoding a pixel.

Nothing here knows a detector, and no score depends on it. Reads are bounded (:mod:`detector.facts.source`), and damaged
or hostile metadata never raise: what could not be read is said in words.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, TypeVar

from PIL import Image

from detector.facts import exif as tiff
from detector.facts import jpeg, png, webp
from detector.facts.c2pa import C2pa, read_manifest
from detector.facts.contents import Contents
from detector.facts.exif import Exif, read_exif, read_tiff
from detector.facts.generators import GeneratorText, generator_texts
from detector.facts.icc import profile_name
from detector.facts.jpeg import Jpeg
from detector.facts.source import Damaged, Source, clean
from detector.facts.xmp import Xmp, read_xmp
from detector.image_formats import FormatError, open_image

T = TypeVar("T")


@dataclass(frozen=True)
class Facts:
    """What a file shows. None means that it does not say, or that it could not be read; then `problems` tells.

    Attributes:
        bytes: size of the file.
        format: "JPEG", "PNG", "WebP", or another of Pillow's names; told by the content, whatever the file is called.
        width, height: in pixels as stored, before `exif.orientation` turns them.
        mode: of the samples: "1", "L" (grey), "LA", "P" (palette), "RGB", "RGBA", "CMYK", or another of Pillow's.
            JPEG's "RGB" is stored as YCbCr, as a rule.
        depth: bits a sample, of JPEG, PNG and WebP.
        icc_profile: name of the colour profile.
        jpeg: how a JPEG was compressed.
        webp: "lossy" or "lossless".
        exif: camera, software, date.
        xmp: origin, as IPTC's vocabulary calls it.
        c2pa: the content credentials, where there are some.
        generators: texts that generating programs wrote.
        texts: names of the texts that are there: keywords of a PNG, "comment" of a JPEG, EXIF fields of free text.
        problems: what could not be read, a sentence each.
    """

    bytes: int | None = None
    format: str | None = None
    width: int | None = None
    height: int | None = None
    mode: str | None = None
    depth: int | None = None
    icc_profile: str | None = None
    jpeg: Jpeg | None = None
    webp: str | None = None
    exif: Exif | None = None
    xmp: Xmp | None = None
    c2pa: C2pa | None = None
    generators: tuple[GeneratorText, ...] = ()
    texts: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def aspect(self) -> float | None:
        """Width by height, as stored."""
        return self.width / self.height if self.width and self.height else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: every attribute, `aspect` after `height`, and `xmp.term`; null for None, lists for tuples."""
        values: dict[str, Any] = {}
        for name, value in asdict(self).items():
            values[name] = list(value) if isinstance(value, tuple) else value
            if name == "height":
                values["aspect"] = self.aspect
        if self.xmp is not None:
            values["xmp"]["term"] = self.xmp.term
        if self.c2pa is not None:
            values["c2pa"]["digital_source_types"] = list(self.c2pa.digital_source_types)
        return values


def read_facts(source: str | os.PathLike[str] | bytes) -> Facts:
    """The facts of a file, at a path or in memory. Never raises for what the file is or holds; no pixel is decoded and
    nothing fetched.
    """
    if isinstance(source, bytes):
        return _read(io.BytesIO(source))
    try:
        # A pipe or a device could keep its reader waiting for ever.
        if not stat.S_ISREG(os.stat(source).st_mode):
            return Facts(problems=("it is no regular file",))
        with open(source, "rb") as file:
            return _read(file)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        return Facts(problems=(f"it cannot be read ({clean(str(getattr(error, 'strerror', None) or error))})",))


def read_compression(file: BinaryIO) -> Jpeg | None:
    """How a JPEG was compressed; None for other files, and where it cannot be told. Never raises for what the file is.

    Args:
        file: can be sought, and is left anywhere.
    """
    contents = Contents()
    try:
        source = Source(file, file.seek(0, os.SEEK_END))
        if source.read(0, len(jpeg.START)) != jpeg.START:
            return None
        jpeg.read_jpeg(source, contents)
    except Exception:  # bytes that no reader expected; what came before them may tell all the same
        pass
    try:
        return jpeg.describe(contents)
    except Exception:
        return None


def _read(file: BinaryIO) -> Facts:
    size = file.seek(0, os.SEEK_END)
    source, contents = Source(file, size), Contents()
    problems = contents.problems

    def attempt(what: str, read: Callable[[], T]) -> T | None:
        """What `read` returns, or None and a problem."""
        try:
            return read()
        except Damaged as error:
            problems.append(f"{what} {error}")
        except Exception as error:  # bytes that no reader expected, wherever it trips over them
            problems.append(f"{what} cannot be read ({clean(f'{type(error).__name__}: {error}')})")
        return None

    head = attempt("the file", lambda: source.read(0, min(size, 16))) or b""
    name: str | None
    exif: Exif | None = None
    if head.startswith(jpeg.START):
        name = "JPEG"
        attempt(name, lambda: jpeg.read_jpeg(source, contents))
    elif head.startswith(png.START):
        name = "PNG"
        attempt(name, lambda: png.read_png(source, contents))
    elif webp.is_webp(head):
        name = "WebP"
        attempt(name, lambda: webp.read_webp(source, contents))
    else:
        name = attempt("the header", lambda: _read_with_pillow(file, contents))
        if head.startswith(tiff.STARTS):
            exif = attempt("TIFF", lambda: read_tiff(source, contents))
    if contents.exif is not None:
        data = contents.exif
        exif = attempt("EXIF", lambda: read_exif(data, contents))
    profile = packet = None
    if contents.icc is not None:
        icc = contents.icc
        profile = attempt("the colour profile", lambda: profile_name(icc))
    if contents.xmp is not None:
        xmp = contents.xmp
        packet = attempt("XMP", lambda: read_xmp(xmp, contents))
    return Facts(
        bytes=size,
        format=name,
        width=contents.width,
        height=contents.height,
        mode=contents.mode,
        depth=contents.depth,
        icc_profile=profile,
        jpeg=attempt("JPEG", lambda: jpeg.describe(contents)) if name == "JPEG" else None,
        webp=contents.webp,
        exif=exif,
        xmp=packet,
        c2pa=read_manifest(file, name) if contents.c2pa else None,
        generators=attempt("the text", lambda: generator_texts(contents.texts)) or (),
        texts=tuple(dict.fromkeys(clean(place) for place, _ in contents.texts)),
        problems=tuple(dict.fromkeys(problems)),
    )


def _read_with_pillow(file: BinaryIO, contents: Contents) -> str | None:
    """The format's name; fills the contents with what Pillow's header reader tells of other formats."""
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which decoding judges
        try:
            with open_image(file) as image:
                contents.width, contents.height = image.size
                contents.mode = image.mode
                contents.icc, contents.exif = _bytes(image, "icc_profile"), _bytes(image, "exif")
                contents.xmp = _bytes(image, "xmp")
                if contents.exif is not None:
                    contents.exif = contents.exif.removeprefix(b"Exif\0\0")
                return image.format
        except FormatError as error:
            raise Damaged(str(error)) from error
        except Image.DecompressionBombError as error:
            raise Damaged("tells of more pixels than Pillow takes") from error


def _bytes(image: Image.Image, name: str) -> bytes | None:
    value = image.info.get(name)
    return value if isinstance(value, bytes) else None
