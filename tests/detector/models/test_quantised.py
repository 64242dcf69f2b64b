"""Detectors whose blocks compute on 8-bit integers: near the exact one, and the same whatever comes with an image."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from detector.models import CNNDetector, NPRDetector, SAFEDetector, load_checkpoint, save_checkpoint
from detector.models.checkpoint import CheckpointError
from detector.models.folded import FoldedDetector
from detector.models.inference import logits
from detector.models.quantised import QuantisedDetector, find_ranges, scenes
from tests.detector.models.original import randomise

MODELS = {
    "npr": NPRDetector,
    "pooling": lambda: NPRDetector(pooling="top-10%"),
    "safe": SAFEDetector,
    "cnn": CNNDetector,
}


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def ranged(make=NPRDetector, images=None):
    """A random model in evaluation mode that brings the ranges of some images."""
    model = randomise(make()).eval()
    model.ranges = find_ranges(model, random_images(4, 3, 64, 64) if images is None else images)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    "make", [pytest.param(make, id=name, marks=[pytest.mark.slow] * (name == "cnn")) for name, make in MODELS.items()]
)
def test_features_are_near_the_models(make):
    """Roundings add up to some hundredths by the root of squares; a wrong step or order makes it about 1."""
    images = random_images(2, 3, 64, 64)
    model = ranged(make, images)
    quantised = model.for_inference("int8")
    assert isinstance(quantised, QuantisedDetector)
    found, truth = quantised.features(images), model.features(images)
    assert found.dtype == torch.float32
    assert 0 < (found - truth).norm() <= 0.2 * truth.norm()
    assert torch.equal(quantised(images), quantised.pool(found))


@torch.no_grad()
def test_the_detector_in_the_box_by_ranges_that_it_does_not_bring():
    """On scenes as they are and enlarged, which it calls real and fake."""
    model = load_checkpoint("default")
    images = torch.stack(scenes()[:2])
    enlarged = F.interpolate(images[:, :, ::2, ::2].float(), scale_factor=2, mode="bilinear").round().to(torch.uint8)
    for views, sign in ((images, -1), (enlarged, 1)):
        truth, found = model(views), model.for_inference("int8")(views)
        assert (truth * sign > 0).all()
        torch.testing.assert_close(found, truth, rtol=0, atol=0.2)


def test_logits_do_not_depend_on_what_comes_with_an_image_or_on_threads():
    quantised = ranged().for_inference("int8")
    images = random_images(5, 3, 70, 90)
    together = logits(quantised, images)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 + threads % 2)
        assert torch.equal(logits(quantised, images.flip(0)), together.flip(0))
        assert torch.equal(quantised.features(images[3:4]), quantised.features(images)[3:4])
    finally:
        torch.set_num_threads(threads)


def test_images_in_tiles_have_the_features_of_the_uncut_image():
    quantised = ranged().for_inference("int8")
    image = random_images(1, 3, 300, 520)
    torch.testing.assert_close(
        logits(quantised, image, max_pixels=240 * 240), logits(quantised, image), rtol=1e-5, atol=1e-5
    )


def test_precisions_can_be_changed_and_are_kept():
    model = ranged()
    quantised = model.for_inference("int8")
    assert quantised.for_inference() is quantised
    assert quantised.for_inference("int8") is quantised
    exact = quantised.for_inference("float32")
    assert type(exact) is FoldedDetector
    assert type(exact.for_inference("int8")) is QuantisedDetector
    for name in ("threshold", "calibration", "recipe", "preprocessing", "pooling", "ranges"):
        assert getattr(quantised, name) == getattr(model, name)


def test_ranges_are_the_largest_values_of_maps():
    model = randomise(NPRDetector()).eval()
    images = random_images(3, 3, 48, 40)
    ranges = find_ranges(model, images)
    with torch.no_grad():
        stem = model.stem(images).amax(dim=(0, 2, 3))
        layer1 = model.layer1(model.stem(images)).amax(dim=(0, 2, 3))
    torch.testing.assert_close(torch.tensor(ranges[0]), stem, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(torch.tensor(ranges[9]), layer1, rtol=1e-3, atol=1e-6)
    assert len(ranges) == 1 + 3 * 7
    with pytest.raises(ValueError, match="at least one image"):
        find_ranges(model, [])


def test_ranges_are_kept_in_checkpoints(tmp_path):
    model = ranged()
    save_checkpoint(tmp_path / "model.safetensors", model)
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    assert loaded.ranges == model.ranges
    images = random_images(2, 3, 40, 40)
    assert torch.equal(logits(loaded.for_inference("int8"), images), logits(model.for_inference("int8"), images))


@pytest.mark.parametrize("wrong", [[1, 2], {"a": 1}, [["1"]], [[True]]], ids=repr)
def test_checkpoints_with_other_ranges_are_refused(tmp_path, wrong):
    model = NPRDetector()
    model.ranges = wrong
    save_checkpoint(tmp_path / "model.safetensors", model)
    with pytest.raises(CheckpointError, match="ranges must be lists of numbers"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_refuses_what_it_cannot_do():
    model = ranged()
    with pytest.raises(ValueError, match="precision must be one of float32, bfloat16, int8, got 'int4'"):
        model.for_inference("int4")
    with pytest.raises(ValueError, match="training mode cannot be quantised"):
        model.train().for_inference("int8")
    model.eval()
    with pytest.raises(ValueError, match="int8 takes a detector with residual blocks in float32 on the CPU, got NPR"):
        randomise(NPRDetector()).eval().double().for_inference("int8")
    ranges = model.ranges
    for wrong, message in [
        (ranges[:-1], "ranges must be of 22 maps"),
        ([ranges[0][1:], *ranges[1:]], "as many channels as the model's"),
        ([[-1.0, *ranges[0][1:]], *ranges[1:]], "finite and not negative"),
        ([[float("nan"), *ranges[0][1:]], *ranges[1:]], "finite and not negative"),
    ]:
        model.ranges = wrong
        with pytest.raises(ValueError, match=message):
            model.for_inference("int8")
