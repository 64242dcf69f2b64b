"""Preprocessing: crops are windows of the image, resizing is Pillow's, and what is stored comes back."""

import json
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from detector.data import BlurJpeg, Delivery, Preprocessing, RandomDelivery


def random_image(height, width):
    """uint8 [3, H, W] as decode returns it; every pixel differs from its neighbours."""
    return torch.from_numpy(np.random.default_rng().integers(0, 256, (height, width, 3), np.uint8)).permute(2, 0, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def windows(image, side):
    """All [3, side, side] windows of the image."""
    return image.unfold(1, side, 1).unfold(2, side, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)


def test_native_training_crops_are_windows_at_every_offset_and_in_both_mirrors():
    image, preprocessing = random_image(10, 9), Preprocessing(crop=7)
    candidates = windows(image, 7)
    candidates = torch.cat([candidates, candidates.flip(-1)])
    seen = set()
    generator = seeded(torch.initial_seed() % 2**31)
    for _ in range(1000):
        crop = preprocessing.training_view(image, generator)
        matches = (candidates == crop).flatten(1).all(1).nonzero()
        assert len(matches) == 1
        seen.add(int(matches))
    assert len(seen) == len(candidates) == 2 * 4 * 3


def test_flip_off_gives_the_same_windows_unmirrored():
    image = random_image(12, 12)
    with_flip, without = Preprocessing(crop=8), Preprocessing(crop=8, flip=False)
    for seed in range(20):
        a, b = (p.training_view(image, seeded(seed)) for p in (with_flip, without))
        assert torch.equal(a, b) or torch.equal(a.flip(2), b)


# What befalls every image, so that the outcome is known.
ALWAYS = BlurJpeg(1.0, (1.5, 1.5), 1.0, (60, 60), ("pillow",))


@pytest.mark.parametrize("policy", ["native", "resize", "centre"])
def test_crops_are_taken_from_the_degraded_image_where_they_were(policy):
    image, preprocessing = random_image(50, 61), Preprocessing(policy, crop=24, resize=40, flip=False)
    whole = Preprocessing("resize", crop=24, resize=40).test_view(image) if policy == "resize" else image
    degraded = Delivery.parse("blur:1.5,jpeg:60")(whole, seeded())
    for seed in range(5):
        plain = preprocessing.training_view(image, seeded(seed))
        place = (windows(whole, 24) == plain).flatten(1).all(1).nonzero().item()
        view = preprocessing.training_view(image, seeded(seed), ALWAYS)
        assert torch.equal(view, windows(degraded, 24)[place])


def test_small_images_are_degraded_before_they_are_tiled():
    image = random_image(20, 9)
    degraded = Delivery.parse("blur:1.5,jpeg:60")(image, seeded())
    view = Preprocessing(crop=18, flip=False).training_view(image, seeded(), ALWAYS)
    assert (windows(degraded.repeat(1, 1, 2), 18) == view).flatten(1).all(1).any()


class Fixed:
    """The same delivery for every image."""

    def __init__(self, text):
        self.delivery = Delivery.parse(text)

    def draw(self, generator, size, crop):
        return self.delivery


@pytest.mark.parametrize("text", ["shift:3:2", "crop:11", "resize:0.6", "resize:1.5"])
def test_crops_are_at_every_place_of_the_delivered_image(text, seed):
    image, preprocessing = random_image(17, 15), Preprocessing(crop=8, flip=False)
    delivered = Delivery.parse(text)(image, seeded())
    candidates = windows(delivered, 8)
    generator, seen = seeded(seed), Counter()
    for _ in range(2000):
        # Resized crops may differ in the last bit.
        view = preprocessing.training_view(image, generator, Fixed(text)).int()
        seen[int((candidates.int() - view).abs().flatten(1).sum(1).argmin())] += 1
        assert (candidates.int() - view).abs().flatten(1).amax(1).min() <= 2
    if text != "resize:1.5":  # larger than the image: not every place has its own in the image
        assert len(seen) == len(candidates)
    # Each comes from about as many of the image's 10 x 8 places.
    share = 1.0
    for before, after in zip((10, 8), (side - 7 for side in delivered.shape[1:]), strict=True):
        share *= math.ceil(before / after) / before
    assert max(seen.values()) <= stats.binom.ppf(1 - 1e-10, 2000, share)


def test_an_image_that_is_delivered_smaller_than_the_crop_is_tiled():
    image = random_image(20, 18)
    delivered = Delivery.parse("crop:9,jpeg:60")(image, seeded())
    view = Preprocessing(crop=16, flip=False).training_view(image, seeded(), Fixed("crop:9,jpeg:60"))
    assert torch.equal(view, delivered.repeat(1, 2, 2)[:, :16, :16])


def test_random_histories_give_crops_of_images_of_every_size(rng, seed):
    augmentation, generator = RandomDelivery(1, jpeg_encoders=("pillow",)), seeded(seed)
    for policy in ("native", "resize", "centre"):
        preprocessing = Preprocessing(policy, crop=24, resize=40)
        for _ in range(60):
            image = random_image(*(int(side) for side in rng.integers(2, 90, 2)))
            view = preprocessing.training_view(image, generator, augmentation)
            assert view.shape == (3, 24, 24)
            assert view.dtype == torch.uint8


@pytest.mark.parametrize(("height", "width"), [(5, 5), (3, 30), (40, 2), (11, 12), (12, 12), (2, 2)])
@pytest.mark.parametrize("policy", ["native", "centre"])
def test_small_images_are_tiled_up_to_the_crop(height, width, policy):
    image = random_image(height, width)
    repeated = torch.from_numpy(np.tile(image.numpy(), (1, 12, 12)))
    tiled = repeated[:, : max(height, 12), : max(width, 12)]
    crop = Preprocessing(policy, crop=12, flip=False).training_view(image, seeded())
    assert crop.shape == (3, 12, 12)
    assert (windows(tiled, 12) == crop).flatten(1).all(1).any()


def test_test_views():
    image = random_image(31, 46)
    assert torch.equal(Preprocessing().test_view(image), image)
    centre = Preprocessing("centre", crop=20).test_view(image)
    assert torch.equal(centre, image[:, 5:25, 13:33])
    small = Preprocessing("centre", crop=40).test_view(image)
    assert torch.equal(small, image.repeat(1, 2, 1)[:, :40, 3:43])
    tiny = random_image(3, 2)
    assert torch.equal(Preprocessing().test_view(tiny), tiny)  # tiled in training only


def test_resize_is_pillows_bilinear():
    image = random_image(31, 46)
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((24, 24), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(expected)).permute(2, 0, 1)
    preprocessing = Preprocessing("resize", crop=20, resize=24, flip=False)
    assert torch.equal(preprocessing.test_view(image), expected)
    assert torch.equal(preprocessing.test_view(image.contiguous()), expected)  # NCHW strides too
    crop = preprocessing.training_view(image, seeded())
    assert (windows(expected, 20) == crop).flatten(1).all(1).any()


def test_round_trip_through_json():
    preprocessing = Preprocessing("resize", 200, 240, False, (0.1, 0.2, 0.3), (1.0, 2.0, 3.0), 0.5)
    assert Preprocessing.from_dict(json.loads(json.dumps(preprocessing.to_dict()))) == preprocessing
    assert Preprocessing.from_dict({}) == Preprocessing()
    assert hash(Preprocessing.from_dict(Preprocessing().to_dict())) == hash(Preprocessing())


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"policy": "stretch"}, ValueError, "policy must be one of native, resize, centre, got 'stretch'"),
        ({"crop": 1}, ValueError, "crop must be at least 2 pixels, got 1"),
        ({"crop": 64.0}, TypeError, "crop must be an int, got float"),
        ({"resize": True}, TypeError, "resize must be an int, got bool"),
        ({"policy": "resize", "crop": 300}, ValueError, "resize must be at least crop"),
        ({"flip": 1}, TypeError, "flip must be a bool, got int"),
        ({"mean": [0.5, 0.5]}, ValueError, "mean must have 3 numbers, one a channel, got 2"),
        ({"mean": 0.5}, TypeError, "mean must be a tuple of 3 numbers, got float"),
        ({"std": [0.1, 0.0, 0.1]}, ValueError, "std must be positive"),
        ({"std": [0.1, "x", 0.1]}, TypeError, "std must be made of numbers, got str"),
        ({"mean": [0.1, float("nan"), 0.1]}, ValueError, "mean must be finite, got nan"),
        ({"scale": 0}, ValueError, "scale must be positive"),
        ({"scale": None}, TypeError, "scale must be made of numbers, got NoneType"),
        ({"colour": 3}, ValueError, "unknown preprocessing keys colour; known are policy, crop"),
        ([1, 2], TypeError, "preprocessing must be a mapping, got list"),
    ],
)
def test_wrong_values_are_named(values, error, message):
    with pytest.raises(error, match=message):
        Preprocessing.from_dict(values)


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        (np.zeros((3, 4, 4), np.uint8), TypeError, "image must be a Tensor, got ndarray"),
        (torch.zeros(3, 4, 4), TypeError, "image must be uint8, got torch.float32"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), ValueError, "image must be .3, H, W. and not empty"),
        (torch.zeros(4, 4, 3, dtype=torch.uint8), ValueError, "image must be .3, H, W. and not empty"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), ValueError, "image must be .3, H, W. and not empty"),
    ],
)
def test_wrong_images_are_named(image, error, message):
    for view in (Preprocessing().test_view, lambda image: Preprocessing().training_view(image, seeded())):
        with pytest.raises(error, match=message):
            view(image)
