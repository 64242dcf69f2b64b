"""Each reason, at the bounds that it is given for; and the limits that detectors bring."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from detector.data import Preprocessing
from detector.doubt import REASONS, Limits, limits_of, reasons_of_image, reasons_of_score, textured_share
from detector.doubt.limits import JPEG_QUALITY, MARGIN
from detector.doubt.texture import MAX_CELLS
from detector.facts.jpeg import Jpeg
from detector.models import NPRDetector


def noise(rng, height=40, width=50):
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


def jpeg(quality, exact=True):
    return Jpeg(quality, exact, "0" * 12, "4:2:0", False)


def codes(reasons):
    assert all(reason.code in REASONS for reason in reasons)
    assert all(reason.text and not reason.text.endswith(".") for reason in reasons)
    return [reason.code for reason in reasons]


def score_of(logit):
    return 1 / (1 + math.exp(-logit))


def test_size(rng):
    pixels = noise(rng)
    assert codes(reasons_of_image(pixels, None, Limits(40))) == []
    (reason,) = reasons_of_image(pixels, None, Limits(41))
    assert reason.to_dict() == {"code": "small", "text": "50x40 pixels, fewer than the 41 a side of its training"}


def test_jpeg_quality(rng):
    pixels = noise(rng)
    limits = Limits(16, 60, "of all")
    assert [codes(reasons_of_image(pixels, jpeg(quality), limits)) for quality in (59, 60, None)] == [["jpeg"], [], []]
    assert reasons_of_image(pixels, jpeg(7), limits)[0].text == "JPEG of quality 7, below 60, the lowest of all"
    assert "quality about 7," in reasons_of_image(pixels, jpeg(7, exact=False), limits)[0].text
    # Where no JPEG will do, none does, whatever its quality; other files are no JPEGs.
    for quality in (100, None):
        assert codes(reasons_of_image(pixels, jpeg(quality), Limits(16, None))) == ["jpeg"]
    assert reasons_of_image(pixels, None, Limits(16, None)) == ()


def test_textured_share(rng):
    image = torch.full((3, 41, 61), int(rng.integers(256)), dtype=torch.uint8)
    assert textured_share(image) == 0
    cells = rng.choice(20 * 30, 90, replace=False)
    for cell in cells:
        row, column = divmod(int(cell), 30)
        image[rng.integers(3), 2 * row + rng.integers(2), 2 * column + rng.integers(2)] ^= 1
    assert textured_share(image) == pytest.approx(90 / 600)
    image[:, 40], image[:, :, 60] = 0, 255  # no cells
    assert textured_share(image) == pytest.approx(90 / 600)
    assert codes(reasons_of_image(image, None, Limits(2, textured=0.16))) == ["flat"]
    assert codes(reasons_of_image(image, None, Limits(2, textured=0.14))) == []


def test_textured_share_of_large_images(rng):
    """A sample of the cells tells it nearly."""
    large = torch.zeros(3, 1500, 2000, dtype=torch.uint8)
    assert large.numel() / 12 > 4 * MAX_CELLS
    large[:, : 2 * 300] = noise(rng, 600, 2000)
    assert textured_share(large) == pytest.approx(0.4, abs=0.01)


def test_reasons_come_in_their_order():
    flat = torch.zeros(3, 8, 8, dtype=torch.uint8)
    assert codes(reasons_of_image(flat, jpeg(3), Limits(16))) == ["small", "jpeg", "flat"]


def test_margin(rng):
    limits = Limits(16, margin=0.7)
    for threshold in rng.uniform(0.01, 0.99, 20):
        middle = math.log(threshold / (1 - threshold))
        near = [score_of(middle + offset) for offset in (-0.69, 0.0, 0.69)]
        far = [score_of(middle + offset) for offset in (-0.71, 0.71)] + [0.0, 1.0]
        assert all(codes(reasons_of_score(score, threshold, None, limits)) == ["score"] for score in near)
        assert all(reasons_of_score(score, threshold, None, limits) == () for score in far)


def test_likelihood_ratios():
    """They have to speak for the verdict by a factor of two, wherever the threshold lies."""
    limits, half = Limits(16, margin=100), math.log10(2)
    for score, threshold in ((0.6, 0.5), (0.5001, 0.5), (1.0, 0.999)):
        assert reasons_of_score(score, threshold, half + 1e-9, limits) == ()
        for llr in (half - 1e-9, 0.0, -2.0):
            assert codes(reasons_of_score(score, threshold, llr, limits)) == ["score"]
    for score, threshold in ((0.4, 0.5), (0.5, 0.5), (0.0, 0.001)):
        assert reasons_of_score(score, threshold, -half - 1e-9, limits) == ()
        for llr in (-half + 1e-9, 0.0, 2.0):
            (reason,) = reasons_of_score(score, threshold, llr, limits)
            assert f'(log10 {llr:+.2f}) does not speak for "real"' in reason.text


def test_band():
    """From above its lower end to the threshold that it was found for; another threshold has the margin."""
    limits = Limits(16, band=(0.3, 0.6), band_rate=0.05)
    found = [codes(reasons_of_score(score, 0.6, None, limits)) for score in (0.3, 0.300001, 0.6, 0.600001)]
    assert found == [[], ["score"], ["score"], []]
    assert reasons_of_score(0.4, 0.9, None, limits) == ()
    assert codes(reasons_of_score(0.88, 0.9, None, limits)) == ["score"]


def group(jpeg):
    return {"group": "g", "jpeg": jpeg}


def files(number, lowest=None, highest=None):
    return {"files": number, "lowest": lowest, "highest": highest}


def test_limits_of_a_detector():
    model = NPRDetector(Preprocessing(crop=48))
    assert limits_of(model) == Limits(48, JPEG_QUALITY, margin=MARGIN)
    model.recipe = {"jpeg_quality": [23, 90], "jpeg_probability": 0.0, "delivery_probability": 0.0}
    assert limits_of(model).jpeg_quality == JPEG_QUALITY
    for name in ("jpeg_probability", "delivery_probability"):
        model.recipe = {"jpeg_quality": [23, 90], name: 0.5}
        assert (limits_of(model).jpeg_quality, limits_of(model).jpeg_source) == (23, "that the detector was trained on")


@pytest.mark.parametrize(
    ("groups", "lowest"),
    [
        ([files(3, 71, 95)], 71),
        ([files(3, 71, 95), files(0), files(1, 64, 64)], 64),
        ([files(0), files(0)], None),
        ([files(3, 71, 95), None], 33),  # of an earlier release: the recipe's
    ],
)
def test_a_calibration_outdoes_the_recipe(groups, lowest):
    model = NPRDetector(Preprocessing(crop=48))
    model.recipe = {"jpeg_quality": [33, 90], "jpeg_probability": 0.5}
    model.calibration = {"reals": [group(one) for one in groups], "threshold": 0.7}
    assert limits_of(model).jpeg_quality == lowest
    assert limits_of(model).band is None
    model.calibration["doubtful"] = {"alpha": 0.05, "threshold": 0.4}
    limits = limits_of(model, model.preprocessing)
    assert (limits.band, limits.band_rate) == ((0.4, 0.7), 0.05)
    other = limits_of(model, Preprocessing(policy="centre", crop=48))
    assert (other.band, other.jpeg_quality) == (None, lowest)


@pytest.mark.parametrize(
    "damage",
    [
        {"reals": [{"jpeg": {}}]},
        {"reals": [{"jpeg": {"files": 2, "lowest": None}}]},
        {"reals": 3},
        {"doubtful": {"alpha": 0.1}},
        {"doubtful": {"alpha": 0.1, "threshold": 0.1}},
    ],
)
def test_damaged_calibrations(damage):
    model = NPRDetector()
    model.calibration = damage
    with pytest.raises(ValueError, match="a damaged calibration"):
        limits_of(model)


def test_recipes_that_say_nonsense():
    """A recipe tells how a detector was made; whoever's it is, verdicts do not fail for it."""
    model = NPRDetector()
    for quality in (None, [], "high", [None, 3]):
        model.recipe = {"jpeg_probability": 0.5, "jpeg_quality": quality}
        assert limits_of(model).jpeg_quality == JPEG_QUALITY


def test_doubting_needs_no_torch():
    code = "import sys, detector.doubt; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
