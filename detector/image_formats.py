"""Which kinds of files are decoded: an allow-list, whatever else Pillow reads.

Pillow knows some forty formats. Most are read by code that few use and nobody attacks in order to mend it, and one
(EPS) hands the file to another program, Ghostscript. What is not listed here is refused by its first bytes.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import logging
from typing import Any, BinaryIO

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF", "GIF", "TIFF", "BMP", "PPM")
"""Pillow's names of what is decoded, where this Pillow has it: AVIF came with 11.3, HEIF comes with pillow-heif."""

# Of ISO base media files with HEVC pictures (ISO/IEC 23008-12, Annex B), whose general name is mif1 or msf1.
_HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"})


class FormatError(ValueError):
    """A file that is no image, or one of another format; the message ends a sentence that starts with its name."""


def open_image(file: BinaryIO) -> Image.Image:
    """Opens the header of an image in one of the FORMATS.

    Raises:
        FormatError: it is in none of them. Others: it is damaged, in ways that each codec names with exceptions of its
            own.
    """
    try:
        return Image.open(file, formats=readable_formats())
    except Image.UnidentifiedImageError as error:
        file.seek(0)
        raise FormatError(_refusal(file.read(16))) from error


@functools.cache
def readable_formats() -> tuple[str, ...]:
    """Those of the FORMATS that can be read here. Codecs that write on standard error are silenced."""
    Image.preinit()
    for plugin in ("TiffImagePlugin", "WebPImagePlugin", "AvifImagePlugin"):
        _import(f"PIL.{plugin}")
    if heif := _import("pillow_heif"):
        heif.register_heif_opener()
    _silence_libtiff()
    # Without a handler of anyone's, Python prints Pillow's errors; ours say the same as exceptions.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _silence_libtiff() -> None:
    """libtiff prints what it thinks of a file; to have no handlers is its own way of not doing so.

    Of the libtiff that Pillow is linked to, alone. Where its symbols are out of sight, it goes on printing.
    """
    try:
        pillow = ctypes.CDLL(Image.core.__file__)  # finds the symbols of what it is linked to
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(pillow, name)
            set_handler.argtypes, set_handler.restype = [ctypes.c_void_p], ctypes.c_void_p
            set_handler(None)
    except (AttributeError, ImportError, OSError):
        pass


def _refusal(head: bytes) -> str:
    """Why a file that starts with these 16 bytes is not decoded."""
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS and "HEIF" not in readable_formats():
        return "is a HEIF image, which needs the package pillow-heif"
    known = ", ".join(readable_formats())
    name = _format_of(head)
    if name is None:
        return f"is not an image in one of the formats {known}"
    return f"is a file of the format {name}, which is not decoded; those that are: {known}"


def _format_of(head: bytes) -> str | None:
    """Pillow's name of the refused format, told by the first bytes alone: no code that decodes it runs."""
    Image.init()
    for name in Image.ID:
        accept = Image.OPEN[name][1]
        try:
            if name not in FORMATS and accept is not None and accept(head) is True:
                return name
        except Exception:  # of fewer bytes than it looks at
            continue
    return None
