"""Rivals compute what the detector computes; how long they take is not asked here."""

import pytest
import torch

from detector.bench.eager import Original
from detector.bench.networks import random_detector
from detector.bench.rivals import RIVALS
from detector.models import NPRDetector
from tests.detector.models.original import randomise

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")

EXACT = [name for name in RIVALS if "int8" not in name]
NEEDS = {"onnxruntime": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


def needs(name):
    for engine, packages in NEEDS.items():
        if name.startswith(engine):
            for package in (*packages, *(["onnxruntime"] if "int8" in name else [])):
                pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture
def images(rng):
    return torch.from_numpy(rng.integers(0, 256, (3, 3, 32, 32)).astype("uint8"))


def logits_of(name, model, images, ranges_of=None):
    needs(name)
    threads = torch.get_num_threads()
    try:
        return RIVALS[name](model, images if ranges_of is None else ranges_of, 1)(images)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("residual", ["npr", "npr+haar"])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "compile" in name else []) for name in EXACT]
)
def test_same_logits(name, residual, images):
    model = randomise(NPRDetector(residual=residual)).eval()
    with torch.no_grad():
        expected = model(images)
    torch.testing.assert_close(logits_of(name, model, images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in RIVALS if name not in EXACT])
def test_int8_is_near(name, rng):
    """Logits of images from dark to bright go the same way: the rounding of 7 bits, and no gross fault."""
    brightness = torch.linspace(0.05, 1, 12).view(12, 1, 1, 1)
    noise = torch.from_numpy(rng.integers(0, 256, (12, 3, 32, 32)))
    images = (noise * brightness).to(torch.uint8)
    model = random_detector()
    with torch.no_grad():
        expected = model(images)
    logits = torch.stack([logits_of(name, model, images, ranges_of=images[::3]), expected]).squeeze(2)
    assert torch.corrcoef(logits)[0, 1] > 0.99


def test_what_has_no_original_is_refused():
    with pytest.raises(ValueError, match="only the papers' residuals"):
        Original(NPRDetector(anchor=1))
