"""Detectors folded for inference: the same logits, whatever comes with an image."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from detector.models import CNNDetector, NPRDetector, SAFEDetector
from detector.models.folded import FoldedDetector
from detector.models.inference import logits
from tests import needs
from tests.detector.models.original import randomise

MODELS = {
    "npr": NPRDetector,
    "haar": lambda: NPRDetector(residual="haar"),
    "npr+haar": lambda: NPRDetector(residual="npr+haar"),
    "mean": lambda: NPRDetector(mode="mean"),
    "luma": lambda: NPRDetector(luma=True),
    "pooling": lambda: NPRDetector(pooling="top-10%"),
    "safe": SAFEDetector,
    "cnn": CNNDetector,
}


def random_images(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8)


@pytest.fixture(params=MODELS)
def model(request):
    return randomise(MODELS[request.param]()).eval()


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (75, 131)], ids=str)
def test_same_logits_as_the_model(model, size):
    images = random_images(3, 3, *size)
    truth = model.double()(images.double() / 255)
    folded = model.float().for_inference()
    assert isinstance(folded, FoldedDetector)
    torch.testing.assert_close(folded(images).double(), truth, rtol=1e-5, atol=1e-5)
    assert folded.for_inference() is folded
    for name in ("feature_stride", "feature_reach", "tile_alignment", "architecture", "pooling", "preprocessing",
                 "threshold", "calibration"):  # fmt: skip
        assert getattr(folded, name) == getattr(model, name)


@needs.extension
def test_features_do_not_depend_on_batch_and_threads():
    folded = randomise(NPRDetector(residual="npr+haar")).eval().for_inference()
    images = random_images(5, 3, 70, 90)
    together = folded.features(images)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 + threads % 2)
        alone = torch.cat([folded.features(image[None]) for image in images])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)


@torch.no_grad()
def test_logits_do_not_depend_on_how_many_images_go_together():
    """Nor on what went through before, in this thread or in another, whose memory is used again."""
    model = randomise(NPRDetector()).eval()
    folded = model.for_inference()
    images = random_images(9, 3, 120, 150)
    expected = torch.cat([model.for_inference()(image[None]) for image in images])
    found = folded(images)
    assert not found.is_inference()
    assert folded(images[:0]).shape == (0, 1)
    with ThreadPoolExecutor(3) as pool:
        others = list(pool.map(lambda n: folded(images[n : n + 3, :, : 90 + n]), range(6)))
    for n, logits_of_part in enumerate(others):
        torch.testing.assert_close(logits_of_part, model(images[n : n + 3, :, : 90 + n]), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(folded(images), found)


def test_scoring_uses_it_and_follows_training():
    model = randomise(NPRDetector()).eval()
    images = random_images(2, 3, 48, 40)
    before = logits(model, images)
    assert torch.equal(before, logits(model.for_inference(), images))
    with torch.no_grad():
        model.layer1[1].conv2.weight.mul_(1.5)
    after = logits(model, images)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, model(images).double().flatten(), rtol=1e-5, atol=1e-5)


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match="training mode cannot be folded"):
        NPRDetector().train().for_inference()


def test_other_dtypes_and_other_detectors_stay_as_they_are():
    model = NPRDetector().double().eval()
    assert model.for_inference() is model


def test_what_it_says_of_itself_is_the_models():
    model = NPRDetector().eval()
    model.threshold, model.calibration, model.recipe = 0.25, {"threshold": 0.25}, {"jpeg_quality": [50, 90]}
    folded = model.for_inference()
    assert (folded.threshold, folded.calibration, folded.recipe) == (0.25, model.calibration, model.recipe)
