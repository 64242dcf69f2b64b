"""Small files of every format that is decoded, in its odd kinds, and their mutations: all from seeds, none stored."""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from detector.image_formats import readable_formats

EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6

# Format, mode, options of Pillow's writer.
KINDS = [
    ("JPEG", "RGB", {"quality": 90}),
    ("JPEG", "RGB", {"quality": 60, "progressive": True, "exif": EXIF}),
    ("JPEG", "L", {"restart_marker_blocks": 1}),
    ("JPEG", "CMYK", {"subsampling": 0}),
    ("PNG", "RGB", {"exif": EXIF}),
    ("PNG", "RGBA", {"icc_profile": b"profile" * 9}),
    ("PNG", "P", {"transparency": 3, "bits": 8}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("PNG", "RGB", {"save_all": True}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True, "exif": EXIF}),
    ("WEBP", "RGB", {"save_all": True}),
    ("AVIF", "RGB", {"speed": 10}),
    ("AVIF", "RGBA", {"speed": 10, "save_all": True}),
    ("HEIF", "RGB", {}),
    ("GIF", "P", {"transparency": 5}),
    ("GIF", "P", {"save_all": True}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ("TIFF", "RGB", {"compression": "jpeg"}),
    ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "I;16", {"compression": "packbits"}),
    ("TIFF", "F", {}),
    ("TIFF", "LAB", {}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("PPM", "RGB", {}),
    ("PPM", "I;16", {}),
    ("PPM", "1", {}),
]


def corpus(seed: int) -> list[bytes]:
    """A file of each kind that this Pillow writes."""
    rng = np.random.default_rng(seed)
    files = []
    for name, mode, options in KINDS:
        if name not in readable_formats():
            continue
        size = rng.integers(3, 40, 2).tolist()
        frames = [_image(rng, mode, *size) for _ in range(2 if "save_all" in options else 1)]
        more = {"append_images": frames[1:]} if len(frames) > 1 else {}
        file = io.BytesIO()
        try:
            frames[0].save(file, name, **options, **more)
        except (OSError, ValueError):  # without the library, or before the mode was known
            continue
        files.append(_WHEN.sub(lambda match: match[1] + bytes(16), file.getvalue()))
    return files


# When a sequence in AVIF or HEIF was written, twice 64 bits in the heads of the movie, of a track and of its media: the
# clock of this machine, which would make files of one seed differ from one second to the next.
_WHEN = re.compile(rb"((?:mvhd|tkhd|mdhd)\x01...).{16}", re.DOTALL)


def _image(rng: np.random.Generator, mode: str, height: int, width: int) -> Image.Image:
    if mode in ("I;16", "F"):
        dtype = np.uint16 if mode == "I;16" else np.float32
        return Image.fromarray(rng.integers(0, 65536, (height, width)).astype(dtype))
    coarse = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(coarse)
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.tobytes())
    return image.quantize(64) if mode == "P" else image.convert(mode)


def mutations(files: list[bytes], seed: int) -> Iterator[bytes]:
    """Endless: each a file with one to eight changes, the same ones for the same files and seed."""
    draw = random.Random(seed)
    while True:
        data = bytearray(draw.choice(files))
        for _ in range(draw.choice((1, 1, 2, 3, 8))):
            draw.choice(_CHANGES)(data, files, draw)
        # A PNG's chunks are checked before they are looked into, so that broken ones would never get far.
        yield _with_right_sums(bytes(data)) if draw.random() < 0.7 else bytes(data)


def _flip_a_bit(data: bytearray, files: list[bytes], draw: random.Random) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _set_a_number(data: bytearray, files: list[bytes], draw: random.Random) -> None:
    """One of those at which sizes and offsets overflow, in the head more often than elsewhere."""
    size = draw.choice((1, 2, 4))
    value = draw.choice((0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1))
    place = draw.randrange(min(len(data), draw.choice((32, 256, len(data) + 1))) + 1)
    data[place : place + size] = (value % 256**size).to_bytes(size, draw.choice(("little", "big")))


def _cut(data: bytearray, files: list[bytes], draw: random.Random) -> None:
    del data[draw.randrange(len(data) + 1) :]


def _remove(data: bytearray, files: list[bytes], draw: random.Random) -> None:
    place = draw.randrange(len(data) + 1)
    del data[place : place + draw.choice((1, 2, 4, 16, 64))]


def _repeat(data: bytearray, files: list[bytes], draw: random.Random) -> None:
    place = draw.randrange(len(data) + 1)
    data[place:place] = data[place : place + draw.choice((1, 4, 16, 64, 256))] * draw.choice((1, 1, 2, 20))


def _overwrite(data: bytearray, files: list[bytes], draw: random.Random) -> None:
    place = draw.randrange(len(data) + 1)
    noise = draw.randbytes(draw.choice((1, 4, 16, 64)))
    data[place : place + len(noise)] = noise


def _splice(data: bytearray, files: list[bytes], draw: random.Random) -> None:
    other = draw.choice(files)
    place = draw.randrange(len(other))
    data[draw.randrange(len(data) + 1) :] = other[place:]


_CHANGES = (_flip_a_bit, _set_a_number, _set_a_number, _cut, _remove, _repeat, _overwrite, _splice)


def _with_right_sums(data: bytes) -> bytes:
    """A PNG with the checksum of every chunk put right; other files as they are."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    result, place = bytearray(data), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        struct.pack_into(">I", result, end, zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(result)
