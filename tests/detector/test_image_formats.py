"""Which formats are decoded and which are refused, by name and unopened; and that codecs keep quiet."""

import contextlib
import importlib
import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from detector import image_formats as module
from detector.data import ImageError, decode
from detector.image_formats import FORMATS, readable_formats

Image.init()
WRITABLE = sorted({name for name in Image.SAVE if name in Image.OPEN})
# Not written without help of other programs, or the same as another: MPO is JPEG.
WRITTEN = [name for name in WRITABLE if name not in ("BUFR", "GRIB", "HDF5", "WMF", "MPO", "XBM", "MSP", "SPIDER")]


@pytest.fixture
def image(rng):
    return Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))


def encoded(image, name, **options):
    file = io.BytesIO()
    image.save(file, name, **options)
    return file.getvalue()


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_listed_is_decoded_and_the_rest_is_named(name, image, monkeypatch):
    mode = {"BLP": "P", "PALM": "P"}.get(name, "RGB")
    try:
        data = encoded(image.convert(mode), name)
    except (OSError, ValueError) as error:
        pytest.skip(f"this Pillow does not write it: {error}")
    for other, (_, accept) in Image.OPEN.items():
        if other not in FORMATS:  # no code that would read it is even called

            def refused(*_, other=other):
                raise AssertionError(f"{other} was opened")

            monkeypatch.setitem(Image.OPEN, other, (refused, accept))
    if name in FORMATS:
        assert decode(data).shape == (3, 16, 16)
        return
    with pytest.raises(ImageError) as caught:
        decode(data)
    if Image.OPEN[name][1] is not None:
        assert f"is a file of the format {name}, which is not decoded" in caught.value.reason
    assert all(listed in caught.value.reason for listed in readable_formats())


def test_eps_starts_no_ghostscript(image, monkeypatch):
    plugin = importlib.import_module("PIL.EpsImagePlugin")

    def started(*_, **__):
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr(plugin, "Ghostscript", started)
    with pytest.raises(ImageError, match="format EPS"):
        decode(encoded(image, "EPS"))


@pytest.mark.parametrize("head", [b"%!PS", b"8BPS", b"\x01", b"BLP", b"\0\0", b"\xff", b"ftyp", b"\0\0\0\x18ftyp"])
def test_fewer_bytes_than_any_head(head):
    with pytest.raises(ImageError):
        decode(head)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_heif_without_its_plugin(brand, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    readable_formats.cache_clear()
    monkeypatch.setattr(module.Image, "OPEN", {k: v for k, v in Image.OPEN.items() if k != "HEIF"})
    try:
        with pytest.raises(ImageError, match="is a HEIF image, which needs the package pillow-heif"):
            decode(b"\0\0\0\x18ftyp" + brand + bytes(40))
    finally:
        readable_formats.cache_clear()


def test_heif_with_its_plugin(image):
    pytest.importorskip("pillow_heif")
    readable_formats()
    smooth = image.resize((3, 2)).resize((64, 48), Image.Resampling.BICUBIC)  # HEIF stores colour at half size
    got = decode(encoded(smooth, "HEIF", quality=95)).permute(1, 2, 0).numpy()
    assert np.abs(got.astype(int) - np.asarray(smooth)).mean() < 6


@pytest.mark.parametrize("compression", ["tiff_adobe_deflate", "tiff_lzw"])
def test_libtiff_is_silenced(compression, tmp_path, capfd):
    file = tmp_path / "damaged.tif"
    Image.effect_noise((40, 40), 50).save(file, compression=compression)
    data = bytearray(file.read_bytes())
    data[100:130] = bytes(range(30))  # within the samples, which come first
    file.write_bytes(data)
    plain = f"from PIL import Image\ntry: Image.open({str(file)!r}).load()\nexcept OSError: pass"
    if not subprocess.run([sys.executable, "-W", "ignore", "-c", plain], capture_output=True, check=True).stderr:
        pytest.skip("this libtiff says nothing of such a file")
    capfd.readouterr()
    with contextlib.suppress(ImageError):
        decode(bytes(data))
    assert capfd.readouterr().err == ""
