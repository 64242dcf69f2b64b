"""The decoder's name and its self-test: the built-in JPEG against the recipe that it was made from."""

import hashlib
import json
import sys
import warnings

import numpy as np
import PIL
import pytest
from PIL import Image, features

from detector.data import DecoderWarning, check_decoder, decode, decoder, find_decoder

HEIGHT, WIDTH = 11, 22


def planes():
    """Luma [11, 22] and chroma [6, 11] of the built-in picture, as its comment gives them."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    v, u = np.mgrid[:6, :11]
    luma = np.where(x < 16, 128, np.rint(128 + 50 * np.sin(0.9 * x + 0.4 * y)))
    return luma, np.rint(128 + 40 * np.cos(1.3 * u + 0.5 * v)), np.rint(128 + 40 * np.cos(0.4 * u - 1.1 * v))


def repeated(plane):
    return plane.repeat(2, axis=0).repeat(2, axis=1)


def interpolated(plane):
    """Each new sample is 3/4 of the nearer old one and 1/4 of the farther, along both sides."""
    for _ in range(2):
        padded = np.pad(plane, ((1, 1), (0, 0)), mode="edge")
        larger = np.empty((2 * len(plane), plane.shape[1]))
        larger[0::2] = (3 * padded[1:-1] + padded[:-2]) / 4
        larger[1::2] = (3 * padded[1:-1] + padded[2:]) / 4
        plane = larger.T
    return plane


def picture(enlarge):
    """uint8 [11, 22, 3]: the planes as RGB, by the equations of JFIF."""
    luma, blue, red = planes()
    blue, red = (enlarge(plane)[:HEIGHT, :WIDTH] - 128 for plane in (blue, red))
    rgb = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    return np.rint(np.stack(rgb, axis=-1)).astype(np.uint8)


@pytest.fixture
def fresh():
    """The self-test runs anew, in the test and after it."""
    clear = (find_decoder.cache_clear, check_decoder.cache_clear)
    for one in clear:
        one()
    yield
    for one in clear:
        one()


@pytest.fixture
def repeating(fresh, monkeypatch):
    """A decoder that repeats chroma."""
    monkeypatch.setattr(decoder, "_test_picture", lambda: picture(repeated))


def test_the_expected_pixels_follow_from_the_recipe():
    """Quality 100 rounds samples of the planes to whole numbers, no more."""
    difference = decoder._difference
    assert difference(picture(interpolated)) <= 3
    assert difference(picture(repeated)) >= 20


def test_this_decoder_is_as_expected():
    found = find_decoder()
    assert found.fault is None
    assert found.difference == 0
    assert found.chroma == "interpolated"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_decoder()


def test_chroma_is_told_from_the_cells_alone():
    assert decoder._chroma(picture(repeated)) == "repeated"
    assert decoder._chroma(picture(interpolated)) == "interpolated"


def test_the_name_has_every_library():
    found = find_decoder()
    assert found.pillow == PIL.__version__
    assert found.libraries.keys() == {"jpeg", "tiff", "webp", "avif", "heif"}
    turbo = features.version_feature("libjpeg_turbo")
    if turbo:
        assert found.libraries["jpeg"] == f"libjpeg-turbo {turbo}"
    if features.check_module("webp"):
        assert found.libraries["webp"] == f"libwebp {features.version_module('webp')}"
    text = str(found)
    assert text.startswith(f"Pillow {PIL.__version__}, ")
    assert all(name in text for name in found.libraries.values() if name)
    assert "None" not in text
    assert json.loads(json.dumps(found.to_dict()))["self_test"]["passed"] is True


def test_a_library_that_is_not_there_is_none(fresh, monkeypatch):
    """AVIF is unknown to Pillow before 11.3, HEIF is a plugin's."""
    monkeypatch.setattr(features, "modules", {k: v for k, v in features.modules.items() if k != "avif"})
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    libraries = find_decoder().libraries
    assert libraries["avif"] is None
    assert libraries["heif"] is None
    assert libraries["jpeg"] is not None
    assert "avif" not in str(find_decoder())


def test_differences_from_a_recorded_decoder():
    found = find_decoder()
    same = found.to_dict()
    assert found.difference_from(same) is None
    assert found.difference_from(json.loads(json.dumps(same))) is None
    assert found.difference_from({}) is None
    # What one of them lacks has no score there, so that there is none to differ.
    assert found.difference_from(same | {"heif": "libheif 0.1", "webp": None}) == (
        None if found.libraries["heif"] is None else f"libheif 0.1, here {found.libraries['heif']}"
    )
    other = same | {"jpeg": "libjpeg-turbo 0.1", "pillow": "1.0", "chroma": "repeated"}
    assert found.difference_from(other) == (
        f"Pillow 1.0, here {found.pillow}; libjpeg-turbo 0.1, here {found.libraries['jpeg']}; "
        "chroma repeated, here interpolated"
    )


def test_a_decoder_that_repeats_is_said_once(repeating, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.warns(DecoderWarning, match=r"up to \d+ of 255 off, its chroma repeated") as caught:
        [decode(tmp_path / "a.png") for _ in range(3)]

    assert len(caught) == 1
    found = find_decoder()
    assert found.difference >= 20
    assert found.to_dict()["self_test"]["passed"] is False
    assert str(found).endswith(f"up to {found.difference} of 255 off, its chroma repeated")


@pytest.mark.parametrize("level", [1, 40])
def test_a_single_sample_off_is_found(fresh, monkeypatch, rng, level):
    right = decoder._test_picture()
    wrong = right.astype(int)
    place = tuple(rng.integers(0, right.shape))
    wrong[place] += level if wrong[place] < 128 else -level
    monkeypatch.setattr(decoder, "_test_picture", lambda: wrong.astype(np.uint8))
    found = find_decoder()
    assert found.difference == level
    assert found.digest == hashlib.sha256(wrong.astype(np.uint8).tobytes()).hexdigest()
    assert found.digest != hashlib.sha256(right.tobytes()).hexdigest()


@pytest.mark.parametrize("broken", [b"", b"\xff\xd8\xff\xe0 no picture"])
def test_a_picture_that_cannot_be_decoded(fresh, monkeypatch, broken):
    monkeypatch.setattr(decoder, "_JPEG", broken)
    with pytest.warns(DecoderWarning, match="cannot be decoded"):
        check_decoder()
    assert find_decoder().to_dict()["self_test"] == {"passed": False, "difference": None, "pixels": None}
    assert str(find_decoder()).endswith("the built-in JPEG cannot be decoded")
