"""What is drawn for training images."""

import importlib.util

import numpy as np
import pytest
import torch
from scipy import stats

from detector.data import Delivery, degradations
from detector.data.augment import EDITED, HISTORIES, SHRINKING, BlurJpeg, RandomDelivery
from detector.data.steps import Blur, Jpeg, Noise, Resize, Sharpen, Shift, Webp

SIZE, CROP = (3000, 4000), 64  # of an image in which anything may happen
PILLOW = ("pillow",)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def assert_as_likely_as(count, draws, probability):
    """Exact bounds, which one right implementation in 10^9 leaves."""
    low, high = stats.binom.interval(1 - 1e-9, draws, probability)
    assert low <= count <= high, (count, draws, probability)


def assert_uniform(values, choices):
    """A chi-squared test that one right implementation in 10^9 fails."""
    counts = [values.count(choice) for choice in choices]
    assert sum(counts) == len(values)
    assert stats.chisquare(counts).pvalue > 1e-9, counts


def test_draws_are_the_papers(seed):
    augmentation = BlurJpeg(0.5, (0.0, 3.0), 0.1, (30, 100), ("pillow", "opencv"))
    generator = seeded(seed)
    drawn = [augmentation.draw(generator, SIZE, CROP) for _ in range(4000)]
    steps = [step for delivery in drawn for step in delivery.steps]
    sigmas = np.array([step.sigma for step in steps if isinstance(step, Blur)])
    qualities = [step.quality for step in steps if isinstance(step, Jpeg)]
    assert any([type(step) for step in delivery.steps] == [Blur, Jpeg] for delivery in drawn)
    assert len(sigmas) / 4000 == pytest.approx(0.5, abs=0.04)
    assert len(qualities) / 4000 == pytest.approx(0.1, abs=0.03)
    assert 0 <= sigmas.min() < 0.1 < 2.9 < sigmas.max() <= 3
    assert sigmas.mean() == pytest.approx(1.5, abs=0.12)
    assert 30 <= min(qualities) < 40 < 90 < max(qualities) <= 100
    encoders = [step.encoder for step in steps if isinstance(step, Jpeg)]
    assert np.mean([encoder == "opencv" for encoder in encoders]) == pytest.approx(0.5, abs=0.13)


def test_both_ends_of_the_qualities_are_drawn():
    augmentation = BlurJpeg(jpeg_probability=1, jpeg_quality=(30, 31), jpeg_encoders=PILLOW)
    generator = seeded(0)
    assert {str(augmentation.draw(generator, SIZE, CROP)) for _ in range(50)} == {"jpeg:30", "jpeg:31"}


def test_nothing_is_drawn_by_default(seed):
    generator = seeded(seed)
    assert all(BlurJpeg().draw(generator, SIZE, CROP) == Delivery() for _ in range(20))


def test_encoders_must_be_installed(monkeypatch):
    monkeypatch.setattr(degradations.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="jpeg_encoders: opencv is not installed"):
        BlurJpeg(jpeg_probability=0.5)
    with pytest.raises(ValueError, match="jpeg_encoders: opencv is not installed"):
        RandomDelivery()
    RandomDelivery(jpeg_encoders=PILLOW)
    RandomDelivery(0)
    monkeypatch.setattr(degradations.features, "check", lambda name: name != "webp")
    with pytest.raises(ValueError, match="webp: this Pillow was built without it"):
        RandomDelivery(jpeg_encoders=PILLOW)
    BlurJpeg(blur_probability=0.5)
    BlurJpeg(jpeg_probability=0.5, jpeg_encoders=PILLOW)


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ({"blur_probability": 1.5}, ValueError, "blur_probability must be in 0..1, got 1.5"),
        ({"jpeg_probability": -0.1}, ValueError, "jpeg_probability must be finite and not negative"),
        ({"jpeg_probability": "half"}, TypeError, "jpeg_probability must be a number, got str"),
        ({"blur_sigma": (3.0, 1.0)}, ValueError, "blur_sigma must not end below its start, got 3.0 to 1.0"),
        ({"blur_sigma": (-1.0, 1.0)}, ValueError, "blur_sigma must be finite and not negative, got -1.0"),
        ({"blur_sigma": 1.0}, ValueError, "blur_sigma must be a lowest and a highest value, got 1.0"),
        ({"jpeg_quality": (0, 50)}, ValueError, r"jpeg_quality must be in 1..100, got 0"),
        ({"jpeg_quality": (30.5, 50)}, TypeError, "jpeg_quality must be an int, got float"),
        ({"jpeg_encoders": ()}, ValueError, "jpeg_encoders must be a tuple of names"),
        ({"jpeg_encoders": ("mozjpeg",)}, ValueError, "jpeg_encoders must be of opencv, pillow, got 'mozjpeg'"),
    ],
)
def test_wrong_values(values, kind, match):
    with pytest.raises(kind, match=match):
        BlurJpeg(**values)


EDITS = (Sharpen, Blur, Noise)
NAMES = {Resize: "resize", Jpeg: "jpeg", Webp: "webp", Shift: "shift"}


@pytest.fixture
def drawn(seed):
    """Many deliveries, and their steps."""
    if not importlib.util.find_spec("cv2"):
        pytest.skip("draws of both encoders need the extra cv")
    generator = seeded(seed)
    return [RandomDelivery().draw(generator, SIZE, CROP) for _ in range(6000)]


def steps_of(drawn, kind):
    return [step for delivery in drawn for step in delivery.steps if isinstance(step, kind)]


def test_a_third_of_the_histories_is_none_and_the_others_are_equally_likely(drawn):
    histories = [
        tuple(NAMES[type(step)] for step in delivery.steps if not isinstance(step, EDITS)) for delivery in drawn
    ]
    assert set(histories) <= {(), *HISTORIES}
    assert_as_likely_as(histories.count(()), len(drawn), 1 / 3)
    for history in set(HISTORIES):
        probability = 2 / 3 * HISTORIES.count(history) / len(HISTORIES)
        assert_as_likely_as(histories.count(history), len(drawn), probability)


def test_a_third_is_edited_after_resizing_or_first(drawn):
    edited = [delivery for delivery in drawn if any(isinstance(step, EDITS) for step in delivery.steps)]
    assert_as_likely_as(len(edited), len(drawn), EDITED)
    for kind in EDITS:
        assert_as_likely_as(len(steps_of(drawn, kind)), len(drawn), EDITED / 3)
    for delivery in edited:
        place = next(i for i, step in enumerate(delivery.steps) if isinstance(step, EDITS))
        assert place == int(isinstance(delivery.steps[0], Resize))


def test_steps_are_drawn_uniformly(drawn):
    resizes, jpegs = steps_of(drawn, Resize), steps_of(drawn, Jpeg)
    shifts, webps = steps_of(drawn, Shift), steps_of(drawn, Webp)
    factors = [step.factor for step in resizes]
    low, high = SHRINKING
    assert (low, high) == (0.3, 1.0)
    # Rounded up to thousandths, which moves the distribution by 0.0014, far less than 2000 draws show (0.02).
    assert stats.kstest(factors, stats.uniform(low, high - low).cdf).pvalue > 1e-9
    assert low <= min(factors) < max(factors) <= high
    assert_uniform([step.filter for step in resizes], ["bilinear", "bicubic", "lanczos", "area"])
    assert_uniform([step.subsampling for step in jpegs], ["420", "444"])
    assert_uniform([step.encoder for step in jpegs], ["opencv", "pillow"])
    assert_uniform([step.quality for step in jpegs], range(30, 101))
    assert_uniform([step.quality for step in webps], range(30, 101))
    assert_uniform([step.rows for step in shifts], range(16))
    assert_uniform([step.columns for step in shifts], range(16))


def test_what_meets_jpeg_twice_meets_two(drawn):
    pairs = [[step for step in delivery.steps if isinstance(step, Jpeg)] for delivery in drawn]
    pairs = [pair for pair in pairs if len(pair) == 2]
    equal = sum(first.quality == second.quality for first, second in pairs)
    assert_as_likely_as(equal, len(pairs), 1 / 71)
    assert_as_likely_as(sum(a.encoder == b.encoder for a, b in pairs), len(pairs), 1 / 2)


def test_histories_can_be_printed_and_drawn_again(drawn, seed):
    assert all(Delivery.parse(str(delivery)) == delivery for delivery in drawn)
    generator = seeded(seed)
    assert [RandomDelivery().draw(generator, SIZE, CROP) for _ in range(100)] == drawn[:100]
    assert len(set(map(str, drawn))) > 3000


def test_the_crop_finds_room(rng, seed):
    """Images are not made smaller than the crop; those that are smaller already keep their size."""
    generator, augmentation = seeded(seed), RandomDelivery(1, jpeg_encoders=PILLOW)
    changed = 0
    for _ in range(2000):
        height, width = (int(side) for side in rng.integers(20, 4000, 2))
        crop = min(height, width) + int(rng.integers(-10, 3))  # hardly any room
        size = augmentation.draw(generator, (height, width), crop).size(height, width)
        if min(height, width) <= crop:
            assert min(size) == min(height, width)
        assert all(after >= min(before, crop) for before, after in zip((height, width), size, strict=True))
        changed += size != (height, width)
    assert changed > 100


@pytest.mark.parametrize("augmentation", [BlurJpeg(), BlurJpeg(1, (0, 3), 1, (30, 100), PILLOW),
                                          RandomDelivery(0), RandomDelivery(1, jpeg_encoders=PILLOW)])  # fmt: skip
def test_as_many_draws_whatever_the_outcome(augmentation, seed):
    reference, generator = seeded(seed), seeded(seed)
    kind = type(augmentation)
    for _ in range(50):
        kind(0, jpeg_encoders=augmentation.jpeg_encoders).draw(reference, SIZE, CROP)
        augmentation.draw(generator, (70, 40), 50)
        assert torch.equal(reference.get_state(), generator.get_state())


def test_probability(seed):
    generator = seeded(seed)
    assert all(RandomDelivery(0).draw(generator, SIZE, CROP) == Delivery() for _ in range(50))
    always = RandomDelivery(1, (70, 70), PILLOW)
    drawn = [always.draw(generator, SIZE, CROP) for _ in range(200)]
    assert all(delivery.steps for delivery in drawn)
    assert {(step.quality, step.encoder) for step in steps_of(drawn, Jpeg)} == {(70, "pillow")}


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ({"probability": 1.5}, ValueError, "probability must be in 0..1, got 1.5"),
        ({"probability": True}, TypeError, "probability must be a number, got bool"),
        ({"jpeg_quality": (90, 30)}, ValueError, "jpeg_quality must not end below its start, got 90 to 30"),
        ({"jpeg_quality": (30, 101)}, ValueError, r"jpeg_quality must be in 1..100, got 101"),
        ({"jpeg_encoders": "pillow"}, ValueError, "jpeg_encoders must be a tuple of names, not empty, got 'pillow'"),
    ],
)
def test_wrong_values_of_random_deliveries(values, kind, match):
    with pytest.raises(kind, match=match):
        RandomDelivery(**values)
