"""Files that mean harm or are broken: each gets its one line, and nobody else says anything."""

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests import needs


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path, rng):
    """Files of which codecs, Pillow and terminals would each have something to say."""
    pixels = rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)
    tiff = bytearray(encoded(pixels, "TIFF", compression="tiff_adobe_deflate"))
    tiff[100:130] = rng.bytes(30)  # libtiff prints
    samples = bytearray(encoded(pixels, "TIFF", compression="raw"))
    place = samples.index(b"\x15\x01\x03\x00\x01\x00\x00\x00")  # SamplesPerPixel, of which Pillow logs
    samples[place + 8 : place + 10] = (20000).to_bytes(2, "little")
    jpeg = encoded(pixels, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff nonsense")  # Pillow warns
    files = {
        "bad.tif": bytes(tiff),
        "cut.tif": encoded(pixels, "TIFF", compression="tiff_lzw")[:-200],
        "samples.tif": bytes(samples),
        "exif.jpg": jpeg,
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "picture.png": encoded(pixels, "EPS"),
        "empty.png": b"",
        "noise.webp": rng.bytes(500),
        "two\nlines.png": encoded(pixels, "PNG"),
        "red\x1b[31m.png": encoded(pixels, "PNG"),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def test_one_line_for_each_file(folder, weights):
    command = [sys.executable, "-m", "detector.cli", "detect", folder, "--weights", weights]
    table = subprocess.run(command, capture_output=True, text=True)
    assert needs.besides_fallback(table.stderr) == ""
    assert table.returncode == 1
    rows = [line for line in table.stdout.splitlines() if not line.startswith(8 * " " + "unsure: ")]
    assert len(rows) == 1 + 10
    assert "\x1b" not in table.stdout
    assert r"two\nlines.png" in table.stdout
    assert "picture.png: is a file of the format EPS, which is not decoded" in table.stdout

    lines = subprocess.run([*command, "--json"], capture_output=True, text=True)
    assert needs.besides_fallback(lines.stderr) == ""
    results = {
        json.loads(line)["path"].removeprefix(f"{folder}/"): json.loads(line) for line in lines.stdout.splitlines()
    }
    assert results.keys() == {path.name for path in folder.iterdir()}
    for name in ("exif.jpg", "two\nlines.png", "red\x1b[31m.png"):
        assert 0 <= results[name]["score"] <= 1
    for name in ("bad.tif", "cut.tif", "cut.jpg", "picture.png", "empty.png", "noise.webp"):
        assert "error" in results[name]
