"""Explanations against the model itself: the activation sums to its logit, the saliency is its gradient."""

import math

import pytest
import torch

from detector.data import Preprocessing
from detector.explain import explain, local_logits
from detector.models import CNNDetector, NPRDetector
from tests.detector.models.original import randomise

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


def scaled(model):
    """Random weights under which local logits are of the order of 1."""
    randomise(model).eval()
    with torch.no_grad():
        features = model.features(torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8))
        model.classifier.weight /= torch.einsum("nchw,oc->nohw", features, model.classifier.weight).abs().max()
    return model


@pytest.fixture(scope="module", params=["npr", "npr-mean-3", "cnn"])
def model(request):
    match request.param:
        case "npr":
            model = NPRDetector(Preprocessing(crop=64))
        case "npr-mean-3":
            model = NPRDetector(patch=3, mode="mean")
        case _:
            model = CNNDetector()
    return scaled(model)


def random_image(rng, height, width):
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype="uint8"))


@pytest.mark.parametrize("size", [(64, 64), (67, 45)])
def test_activation_sums_to_the_logit_minus_bias(model, rng, size):
    image = random_image(rng, *size)
    with torch.no_grad():
        logit = model(image[None]).item()
        features = model.features(image[None])[0].double()
    result = explain(model, image)
    assert result.activation.sum().item() == pytest.approx(logit - model.classifier.bias.item(), rel=1e-5, abs=1e-4)
    assert result.logit == pytest.approx(logit, rel=1e-5, abs=1e-4)
    assert result.score == pytest.approx(torch.tensor(logit).sigmoid().item(), abs=1e-4)
    local = (features * model.classifier.weight[0].detach().double().view(-1, 1, 1)).sum(0) + result.bias
    assert result.local_logits.shape == features.shape[1:]
    torch.testing.assert_close(result.local_logits, local, rtol=1e-4, atol=1e-4 * local.abs().max().item())


def test_saliency_is_the_gradient(model, rng):
    image = random_image(rng, 51, 66)
    pixels = (image[None] / 255).requires_grad_()
    model(pixels).sum().backward()
    wanted = pixels.grad[0].norm(dim=0)
    torch.testing.assert_close(explain(model, image).saliency, wanted, rtol=1e-3, atol=1e-4 * wanted.max().item())


def test_windows_change_nothing(rng):
    model = scaled(NPRDetector()).double()  # so that no activation near zero is rectified in one and not in the other
    image = random_image(rng, 163, 35)
    whole, parts = explain(model, image, max_pixels=2**30), explain(model, image, max_pixels=2**12)
    torch.testing.assert_close(parts.activation, whole.activation, rtol=0, atol=1e-10)
    torch.testing.assert_close(parts.saliency, whole.saliency, rtol=0, atol=1e-10)


@pytest.mark.parametrize("logit", [-800.0, -2.0, 0.0, 3.0, 800.0])
def test_score_of_any_logit(logit):
    model = NPRDetector().eval()
    torch.nn.init.zeros_(model.fc1.weight)
    torch.nn.init.constant_(model.fc1.bias, logit)
    score = explain(model, torch.zeros(3, 16, 16, dtype=torch.uint8)).score
    assert score == pytest.approx(0.5 + 0.5 * math.tanh(logit / 2))


@pytest.mark.parametrize(
    ("image", "kind", "match"),
    [
        ([1], TypeError, "image must be a Tensor, got list"),
        (torch.zeros(3, 8, 8), TypeError, "image must be uint8, got torch.float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ValueError, r"image must be \[3, H, W\]"),
        (torch.zeros(3, 1, 8, dtype=torch.uint8), ValueError, "at least 2"),
    ],
)
def test_wrong_input(image, kind, match):
    with pytest.raises(kind, match=match):
        explain(NPRDetector(), image)


@pytest.mark.parametrize("size", [(64, 64), (131, 45)])
def test_the_map_alone_is_that_of_the_explanation(model, rng, size):
    image = random_image(rng, *size)
    expected = explain(model, image).local_logits
    for max_pixels in (2**20, 64 * 64):
        found = local_logits(model, image, max_pixels=max_pixels)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * max(1, expected.abs().max().item()))
