"""How image files are encoded, told by their first bytes: whether pixels lost something when they were stored.

It says nothing of what an image was before: a PNG may hold what a JPEG has left.
"""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

from detector.facts.contents import Contents
from detector.facts.source import Damaged, Source
from detector.facts.webp import read_webp
from detector.image_formats import open_image

LOSSLESS = frozenset({"PNG", "TIFF", "BMP", "PPM", "lossless WebP"})
"""Encodings that give back the pixels they were given."""

JPEG = "JPEG"

UNKNOWN = "unknown"

# Pillow's names of what TIFF files hold as JPEG or WebP.
_LOSSY_TIFF = frozenset({"jpeg", "tiff_jpeg", "webp"})


def encoding(path: str | os.PathLike[str]) -> str:
    """The file's encoding: "PNG", "JPEG", "TIFF", "lossy TIFF", "WebP", "lossless WebP", another of Pillow's names, or
    UNKNOWN where it is none that is decoded or cannot be read. No pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, which decoding judges
            with open(path, "rb") as file, open_image(file) as image:
                found = image.format or UNKNOWN
                compression = image.info.get("compression")
    except Exception:  # Pillow meets hostile bytes here and answers with exceptions of many kinds
        return UNKNOWN
    if found == "TIFF" and compression in _LOSSY_TIFF:
        return "lossy TIFF"
    if found == "WEBP":
        return "lossless WebP" if _is_lossless_webp(path) else "WebP"
    return JPEG if found == "MPO" else found  # several JPEGs in one file, of which the first counts


def count_encodings(paths: Iterable[str | os.PathLike[str]]) -> dict[str, int]:
    """Images of each encoding, the most frequent first."""
    counts = Counter(map(encoding, paths))
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _is_lossless_webp(path: str | os.PathLike[str]) -> bool:
    """Of an animation, whether its first frame is."""
    contents = Contents()
    with open(path, "rb") as file, suppress(Damaged):
        read_webp(Source(file, os.fstat(file.fileno()).st_size), contents)
    return contents.webp == "lossless"
