import os

import numpy as np
import pytest
from PIL import Image, features

from detector.evaluation.encodings import LOSSLESS, count_encodings, encoding


@pytest.fixture
def image(rng):
    return Image.fromarray(rng.integers(0, 256, (19, 23, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("suffix", "options", "expected"),
    [
        ("png", {}, "PNG"),
        ("bmp", {}, "BMP"),
        ("ppm", {}, "PPM"),
        ("gif", {}, "GIF"),
        ("jpg", {}, "JPEG"),
        ("mpo", {"save_all": True, "append_images": [Image.new("RGB", (19, 23))]}, "JPEG"),
        ("tif", {}, "TIFF"),
        ("tif", {"compression": "tiff_lzw"}, "TIFF"),
        ("tif", {"compression": "jpeg"}, "lossy TIFF"),
        ("webp", {}, "WebP"),
        ("webp", {"lossless": True}, "lossless WebP"),
        ("webp", {"exif": b"Exif\0\0odd", "icc_profile": b"p" * 33}, "WebP"),
        ("webp", {"lossless": True, "exif": b"Exif\0\0odd", "icc_profile": b"p" * 33}, "lossless WebP"),
        ("webp", {"save_all": True, "append_images": [Image.new("RGB", (23, 19))]}, "WebP"),
        ("webp", {"save_all": True, "lossless": True, "append_images": [Image.new("RGB", (23, 19))]}, "lossless WebP"),
    ],
)
def test_encoding(suffix, options, expected, image, tmp_path):
    if options.get("compression") and not features.check("libtiff"):
        pytest.skip("this Pillow has no libtiff")
    if suffix == "webp" and not features.check("webp"):
        pytest.skip("this Pillow has no WebP")
    path = tmp_path / f"a.{suffix}"
    image.save(path, **options)
    misnamed = tmp_path / "b.png"
    os.link(path, misnamed)
    assert encoding(path) == encoding(misnamed) == expected
    # What is called lossless gives the pixels back, and nothing else does (GIF has 256 colours).
    same = np.array_equal(np.array(Image.open(path).convert("RGB")), np.array(image))
    assert same == (expected in LOSSLESS)


def test_lossless_webp_with_transparency(rng, tmp_path):
    pixels = Image.fromarray(rng.integers(0, 256, (9, 8, 4), dtype=np.uint8))
    for lossless, expected in ((True, "lossless WebP"), (False, "WebP")):
        pixels.save(tmp_path / "a.webp", lossless=lossless)
        assert encoding(tmp_path / "a.webp") == expected


def test_counts(image, tmp_path):
    for name in ("a.png", "b.png", "c.jpg"):
        image.save(tmp_path / name)
    (tmp_path / "d.png").write_bytes(b"no image")
    paths = [*sorted(tmp_path.iterdir()), tmp_path / "none.png"]
    assert count_encodings(paths) == {"PNG": 2, "unknown": 2, "JPEG": 1}
    assert list(count_encodings(paths)) == ["PNG", "unknown", "JPEG"]
