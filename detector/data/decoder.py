"""Which decoder turns files into pixels: a score belongs to a model and to a decoder.

JPEGs mostly store colour at half size, and the decoder enlarges it. One that interpolates and one that repeats give
images that differ on the very 2x2 cells that the detectors read. So results and checkpoints name the decoder, and a
small JPEG in this file, decoded once in a process, tells whether it gives the pixels that the detectors were made with.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib
import io
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

# 22x11 pixels, 4:2:0, of quality 100. Luma is 128 in the left 16 columns, 128 + 50 sin(0.9 x + 0.4 y) right of them;
# chroma, at half size, is 128 + 40 cos(1.3 u + 0.5 v) in Cb, 128 + 40 cos(0.4 u - 1.1 v) in Cr. The pixels, packed by
# zlib, are what the integer DCT and the triangular filter ("fancy upsampling") of libjpeg-turbo 2 and 3 make of it.
_HEIGHT, _WIDTH, _FLAT = 11, 22, 16
_JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
    "AQEBAQH/2wBDAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQH/wAARCAALABYD"
    "ASIAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAb/xAAiEAAABAYDAQEAAAAAAAAAAAABAgMEAAUGCBESBxMhFDL/xAAWAQEBAQAAAAAAAAAA"
    "AAAAAAAFAwb/xAAnEQABBAEDAgcBAQAAAAAAAAABAgMEBQYHERMACBIUISMlMTJBUf/aAAwDAQACEQMRAD8AQhCM2uZPyHS+dduP8eQdz2sicesZ"
    "5KvicXrLAMpqyoArIWygICWgtv8A07dA5vrLkOGThh+veI4PqzX+Lywt4MVyBd+Dfj5C6/EYTy7bnfl/X99eqi1SnpXyZUHKVxvKQp/BWk8Up6mA"
    "f40+FBwZ2Xo7Rxr1sw/PmMY8hELcO/eUVbDbjLqUcKSJk7RF45QYCCZV3RpY42XVMYDnOcdjZETCHo+QimqXdBkOmOeX+nmLxDFoMMcgY5WsgtpA"
    "Zq6qDFWsJCiBzPNuvfe/ubkA7gKV2mfbdkMGNdwqrU+li2TfmWaqJcxfLQgpRCmWfkh7YWlSh6D9fQ6//9k="
)
_PIXELS = base64.b64decode(
    "eNoVkE9P2nAAQD/Gjp6W7TYT58nDDtvaoCltwNrABGZH1aoU+FkEpCAFrMMCBUShA7QIRvkbijql0+g2nTHbYVvmzWRfZe7+8pL3TiduTkzasU1R"
    "Z8INQOwuQ3JwLLVCxgIJf6DJhM7sseNJaQOXgb6q1x288t+FLUf88xA/YOWHyC1b/KtqvlYnT1RS7tL+Nhjf90KKHyv4aIndENgO59VAqDsXT0zl"
    "5s1lBK9A3psQWmSfLngHLLEXnqpj5+cueVmzdxq02HHQqnusB6Cu09Se9+5PKwp1XKD7kntPCIa4uBVk4bktnb/NwWH3Y2vgiT2NJNXF4zvR+cBU"
    "ZZZTlix1L9RmdV0HpU6vqrZmx6I1pno1Wi6zrs3QuChAfFwfTHhHSWbIwL9cUGbLZ5GLXwzfAtE8JzgEwZCJQjKH7QKwP7vRth12JzXVVlcpscOQ"
    "DQ9S88Elv2ltBky+dk/oUm7QS+9dfvh0ZUptW9JxKveWyel8EsyvmcTlcM6llKf7NbLfoLY7NKc6CRXAXYC0GWpNx7iG/YHRUnH54ujgst1soVsp"
    "TA4Yd3BCgSxFPbVBMULax7V4VhPdvU2QLrNMzYs0lqCOG1dpdnXYFRlcrRja15Gb35WP57m0scAZig60iqA1CFMIXGbNqdKUcDgX7oOVOheJCFFS"
    "isKFFVjxkPsLkcCgJzWSP7Vr94nb+0L1U5ChsvPvtqzmbRiv6LBtO1qIoZk6luzjicP/qiyYy+EgC3EJROAZyZOmR6KSsf45+O1v4cufjNiaR4Lx"
    "N/7EuDMHUXm9NeciMllj8hBLamim+RBoLFHEDmIpw/Y8zqxzvpWSGc0kF8/OC99/VHon7xnJ9qzI6TfDY+Lqw0PCFws7IwoV0ayCRkiKMR/GFBNa"
    "g7HqmKFMEtmEZb2OLtRim7d19eqgLosxbNb66B+oXWv7"
)


class DecoderWarning(UserWarning):
    """The decoder gives other pixels than the detectors were made with, or may give them."""


@dataclass(frozen=True)
class Decoder:
    """What decodes images in this process.

    Attributes:
        pillow: its version.
        libraries: name and version of the library behind each format that may lose something, None where this Pillow
            lacks the format.
        chroma: how a JPEG's colour, stored at half size, is enlarged: "interpolated", or "repeated", which leaves 2x2
            cells of one colour. None where the test picture cannot be decoded, as with the following two.
        difference: the largest of a sample of the test picture to the expected one, 0..255. 0: the decoder gives the
            pixels that the detectors were made with.
        digest: SHA-256 of the test picture's samples, RGB row by row, in hexadecimal.
    """

    pillow: str
    libraries: dict[str, str | None]
    chroma: str | None
    difference: int | None
    digest: str | None

    @property
    def fault(self) -> str | None:
        """What is wrong with the test picture; None for nothing."""
        if self.difference is None:
            return "the built-in JPEG cannot be decoded"
        if self.difference:
            return f"the built-in JPEG comes out up to {self.difference} of 255 off, its chroma {self.chroma}"
        return None

    def difference_from(self, recorded: Mapping[str, Any]) -> str | None:
        """In what another decoder, as `to_dict` gives it, is not this one; None where it is.

        Formats that one of them lacks are no difference: their files have no score there.
        """
        own = self.to_dict()
        named = {"pillow": "Pillow ", "chroma": "chroma "}
        parts = [
            f"{named.get(key, '')}{recorded[key]}, here {own[key]}"
            for key in ("pillow", *self.libraries, "chroma")
            if own[key] and recorded.get(key) and recorded[key] != own[key]
        ]
        return "; ".join(parts) or None

    def __str__(self) -> str:
        """One line, the same for equal decoders."""
        parts = [f"Pillow {self.pillow}", *self.libraries.values(), self.fault or f"chroma {self.chroma}"]
        return ", ".join(filter(None, parts))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "pillow": self.pillow,
            **self.libraries,
            "chroma": self.chroma,
            "self_test": {"passed": self.fault is None, "difference": self.difference, "pixels": self.digest},
        }


@functools.cache
def find_decoder() -> Decoder:
    """The decoder of this process, found out at the first call."""
    pixels = _test_picture()
    if pixels is None:
        return Decoder(PIL.__version__, _libraries(), None, None, None)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    return Decoder(PIL.__version__, _libraries(), _chroma(pixels), _difference(pixels), digest)


@functools.cache
def check_decoder() -> None:
    """Warns once in a process, with a DecoderWarning, where the decoder fails the self-test."""
    found = find_decoder()
    if found.fault is not None:
        warnings.warn(
            f"Pillow {found.pillow} with {found.libraries['jpeg']} decodes otherwise than the detectors expect "
            f"({found.fault}): scores of JPEGs do not mean what they were measured to mean",
            DecoderWarning,
            stacklevel=3,
        )


def _test_picture() -> np.ndarray | None:
    """uint8 [H, W, 3] as it is decoded here."""
    try:
        with Image.open(io.BytesIO(_JPEG), formats=("JPEG",)) as image:
            pixels = np.array(image)
    except Exception:  # a Pillow without JPEG, or with a broken one
        return None
    return pixels if pixels.shape == (_HEIGHT, _WIDTH, 3) else None


def _difference(pixels: np.ndarray) -> int:
    expected = np.frombuffer(zlib.decompress(_PIXELS), np.uint8).reshape(_HEIGHT, _WIDTH, 3)
    return int(np.abs(pixels.astype(int) - expected).max())


def _chroma(pixels: np.ndarray) -> str:
    """Told by the cells where luma is flat: repeated chroma leaves nothing of them but one colour each."""
    cells = pixels[: _HEIGHT // 2 * 2, :_FLAT].reshape(_HEIGHT // 2, 2, _FLAT // 2, 2, 3)
    return "interpolated" if (cells != cells[:, :1, :, :1]).any() else "repeated"


def _libraries() -> dict[str, str | None]:
    turbo = features.version_feature("libjpeg_turbo")
    return {
        "jpeg": f"libjpeg-turbo {turbo}" if turbo else _named("libjpeg", features.version_codec("jpg")),
        "tiff": _named("libtiff", features.version_codec("libtiff")),
        "webp": _named("libwebp", features.version_module("webp")),
        # Pillow 11.3 is the first to know of it.
        "avif": _named("libavif", features.version_module("avif") if "avif" in features.modules else None),
        "heif": _heif(),
    }


def _named(library: str, version: str | None) -> str | None:
    return version and f"{library} {version}"


def _heif() -> str | None:
    try:
        return f"libheif {importlib.import_module('pillow_heif').libheif_version()}"
    except ImportError:
        return None
