"""Files with the metadata that the tests plant, put together byte by byte where Pillow does not write it."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

XMP_HEAD = b"http://ns.adobe.com/xap/1.0/\0"
TRAINED = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PARAMETERS = "a cat, oil\nNegative prompt: dog\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


def picture(rng, size=(33, 47), mode="RGB"):
    channels = {"L": 1, "RGB": 3, "RGBA": 4, "CMYK": 4, "LA": 2}[mode]
    pixels = rng.integers(0, 256, (*size, channels), dtype=np.uint8)
    return Image.fromarray(pixels[..., 0]) if channels == 1 else Image.fromarray(pixels, mode)


def encode(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunks(png, *chunks):
    """A PNG with chunks after its header."""
    return png[:33] + b"".join(png_chunk(kind, data) for kind, data in chunks) + png[33:]


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(jpeg, *segments):
    """A JPEG with segments at its start."""
    return jpeg[:2] + b"".join(segment(marker, data) for marker, data in segments) + jpeg[2:]


def with_riff(webp, *chunks):
    """A WebP with chunks at its end."""
    body = webp[8:]
    for kind, data in chunks:
        body += kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def manifest_store(kind=b"c2pa"):
    """The start of a JUMBF superbox of that type."""
    uuid = kind + bytes.fromhex("00110010800000AA00389B71")
    description = struct.pack(">I", 8 + 16 + 1 + 5) + b"jumd" + uuid + b"\x03" + b"c2pa\0"
    return struct.pack(">I", 8 + len(description) + 20) + b"jumb" + description + b"\0" * 20


def app11(box):
    return b"JP" + struct.pack(">HI", 1, 1) + box


def packet(properties="", attributes=""):
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description r:about="" '
        'xmlns:iptc="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        f'xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/" {attributes}>{properties}</r:Description></r:RDF>'
        '</x:xmpmeta><?xpacket end="w"?>' + " " * 50
    ).encode()


def international_text(keyword, text, compressed=False):
    data = text if isinstance(text, bytes) else text.encode()
    return keyword.encode() + b"\0" + bytes([compressed, 0]) + b"\0\0" + (zlib.compress(data) if compressed else data)
