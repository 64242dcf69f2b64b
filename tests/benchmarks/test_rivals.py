"""Rivals compute what the detector computes; how long they take is not asked here."""

import pytest
import torch

from benchmarks import rivals
from detector.models import NPRDetector
from tests.detector.models.original import randomise

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")

EXACT = [name for name in rivals.RIVALS if "int8" not in name]
NEEDS = {"ONNX Runtime": ("onnx", "onnxruntime"), "OpenVINO": ("onnx", "openvino")}


def needs(name):
    for engine, packages in NEEDS.items():
        if name.startswith(engine):
            for package in (*packages, *(["onnxruntime"] if "int8" in name else [])):
                pytest.importorskip(package, reason=f"{package} is not installed")


@pytest.fixture
def images(rng):
    return torch.from_numpy(rng.integers(0, 256, (3, 3, 32, 32)).astype("uint8"))


def logits_of(name, model, images):
    needs(name)
    threads = torch.get_num_threads()
    try:
        return rivals.build(batch=3, size=32, threads=1, model=model, calibration=images, names=[name])[name](images)
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


@pytest.mark.parametrize("name", [name for name in rivals.RIVALS if name not in EXACT])
def test_int8_is_near(name, images):
    """Within a tenth of what logits of such images spread; the rounding of 7 bits, and no gross fault."""
    model = randomise(NPRDetector()).eval()
    images = (images * torch.tensor([0.1, 0.5, 1]).view(3, 1, 1, 1)).to(torch.uint8)
    with torch.no_grad():
        expected = model(images)
    got = logits_of(name, model, images)
    print(got.flatten(), expected.flatten())
    assert (got - expected).abs().max() < 0.1 * (expected.max() - expected.min())


def test_what_has_no_original_is_refused():
    with pytest.raises(ValueError, match="only the papers' residuals"):
        rivals.Original(NPRDetector(anchor=1))
