"""Image files to uint8 tensors: one function, `decode`, and the one error it raises, `ImageError`.

Pixels stay the integers that the file holds. Whatever a file's mode, the result is 8-bit RGB:

- grey, 1-bit and palette images are expanded;
- transparency (an alpha channel or a transparent colour) is composited over white, so that colours hidden under
  transparent pixels do not come to light;
- 16-bit samples keep their upper byte, in grey and in colour alike;
- CMYK is converted without a colour profile (profiles are ignored throughout);
- the EXIF orientation is applied;
- of an animation the first frame is read.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from detector.data.decoder import check_decoder
from detector.image_formats import FormatError, open_image
from detector.printable import printable

MAX_PIXELS = 2**27
"""Largest image that is decoded, 134 megapixels (403 MB as RGB). Anything larger is taken for a decompression bomb."""

Admit = Callable[[int], None]
"""Is told how many bytes an image takes before any of them is decoded, and may make it wait."""

Source = str | os.PathLike[str] | bytes | BinaryIO

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# warnings.catch_warnings swaps process-wide state; one thread at a time may do so.
_warnings_lock = threading.Lock()


class ImageError(ValueError):
    """An image that cannot be decoded: `source` names it, `reason` says what is wrong with it."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(source, reason)  # both in args: the error survives pickling by a data-loader worker
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class FormatRefusedError(ImageError):
    """A file that is no image, or one of a format that is not decoded."""


class TooManyPixelsError(ImageError):
    """An image of more pixels than are decoded."""


def read_size(data: bytes) -> tuple[int, int]:
    """Width and height as a file's header tells them, before any orientation; no pixel is decoded.

    Raises:
        ImageError: as :func:`decode`, of what the header shows.
    """
    with _opened(io.BytesIO(data), _name(data)) as image:
        return image.size


def decode(source: Source, *, admit: Admit | None = None) -> Tensor:
    """Decodes an image file.

    Args:
        source: a path, the bytes of a file, or a binary file object positioned at the file's start.
        admit: called once, with the bytes of the result, when the size is known and accepted and nothing is decoded.

    Returns:
        uint8 [3, H, W], RGB, H and W at least 2, with channels_last strides: the decoder's HWC buffer, permuted.

    Raises:
        ImageError: the source cannot be opened, is empty, is no image or in none of the formats of
            :data:`detector.image_formats.FORMATS`, is truncated or damaged, has a side of one pixel, has more than
            MAX_PIXELS pixels, or holds samples whose range is not defined (32-bit float).
        TypeError: the source is none of the above kinds.

    Example:
        >>> from detector.data import decode
        >>> decode("photo.jpg").shape
        torch.Size([3, 320, 480])
    """
    name = _name(source)
    check_decoder()
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(source)
    try:
        if isinstance(source, (str, os.PathLike)):
            with open(source, "rb") as file:
                image = _decode_stream(file, name, admit)
        else:
            image = _decode_stream(source, name, admit)
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(name, f"cannot be read ({error.strerror or error})") from error
    # The buffer is fresh and ours alone, so the tensor may share it.
    return torch.from_numpy(image).permute(2, 0, 1)


def decode_opened(image: Image.Image, name: str = "<image>") -> Tensor:
    """The pixels of an image that Pillow has opened or made, as :func:`decode` gives them.

    Args:
        image: decoded or not; of an animation, the frame that it stands at.
        name: of the image in errors.

    Returns:
        uint8 [3, H, W], see :func:`decode`.

    Raises:
        ImageError: as :func:`decode`, of what an opened image can have wrong.
    """
    check_decoder()
    with _as_image_errors(name):
        _check_size(image, name)
        return torch.from_numpy(_pixels(image, name)).permute(2, 0, 1)


def _name(source: Source) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return "<bytes>"
    if hasattr(source, "read"):
        return str(getattr(source, "name", "<stream>"))
    raise TypeError(f"source must be a path, bytes or a binary file object, got {type(source).__name__}")


def _decode_stream(stream: BinaryIO, name: str, admit: Admit | None) -> np.ndarray:
    """HWC uint8 array of the stream's image."""
    if not stream.seekable():
        stream = io.BytesIO(stream.read())
    with _opened(stream, name) as image:
        if admit is not None:
            admit(3 * image.width * image.height)
        return _pixels(image, name)


def _pixels(image: Image.Image, name: str) -> np.ndarray:
    image.load()
    return np.array(_to_rgb(_upright(image), name))


@contextmanager
def _opened(stream: BinaryIO, name: str) -> Iterator[Image.Image]:
    """The stream's image, its size accepted and nothing decoded; what fails in the block is an ImageError as well."""
    start = stream.tell()
    if not stream.read(1):
        raise ImageError(name, "is empty")
    stream.seek(start)
    with _as_image_errors(name), _open(stream) as image:
        _check_size(image, name)
        yield image


@contextmanager
def _as_image_errors(name: str) -> Iterator[None]:
    """Codecs meet hostile bytes and answer with exceptions of every kind (OSError, SyntaxError, struct.error, ...)."""
    try:
        yield
    except ImageError:
        raise
    except FormatError as error:
        raise FormatRefusedError(name, str(error)) from error
    except Image.DecompressionBombError as error:
        raise TooManyPixelsError(name, f"has too many pixels, more than the limit of {MAX_PIXELS}") from error
    except MemoryError as error:
        raise ImageError(name, "needs more memory than there is") from error
    except Exception as error:
        raise ImageError(name, f"is damaged ({printable(str(error))})") from error


def _open(stream: BinaryIO) -> Image.Image:
    """Opens the image's header. Pillow's size warning is silenced: MAX_PIXELS decides, with an error."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return open_image(stream)


def _check_size(image: Image.Image, name: str) -> None:
    """Judges the header's size before any pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise TooManyPixelsError(name, f"has too many pixels, {width}x{height}, more than the limit of {MAX_PIXELS}")
    if width < 2 or height < 2:
        raise ImageError(name, f"is {width}x{height} pixels; each side needs at least 2")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # unreadable metadata does not make the pixels unreadable
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I"):
        image = _upper_byte(image, name)
    if image.mode == "F":
        raise ImageError(name, "holds 32-bit floating-point samples, whose range no standard defines")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _upper_byte(image: Image.Image, name: str) -> Image.Image:
    """8-bit grey of a 16-bit grey image, which Pillow holds in mode I;16 or, widened, in the 32-bit mode I."""
    samples = np.asarray(image)
    if samples.min() < 0 or samples.max() > 0xFFFF:
        raise ImageError(name, "holds 32-bit samples outside the 16-bit range 0..65535")
    return Image.fromarray((samples >> 8).astype(np.uint8))
