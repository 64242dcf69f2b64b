"""The whole detector on a CUDA device: the fused stem of each backend against the reference, layer by layer."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F

import npr_kernels as nk
from detector.models import NPRDetector
from detector.models.inference import score_stream
from tests.detector.models.original import randomise

pytestmark = pytest.mark.gpu


@pytest.fixture(params=["cuda", "triton"])
def backend(request) -> str:
    if not nk.available_backends()[request.param]:
        pytest.skip(nk.info()["backends"][request.param]["reason"])
    return request.param


@pytest.fixture(autouse=True)
def _float32_is_float32(monkeypatch):
    """Without it cuDNN rounds to TF32, and the stem, which does not, differs from the reference."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.fixture
def images(seed) -> torch.Tensor:
    torch.manual_seed(seed)
    return torch.randint(0, 256, (8, 3, 98, 131), dtype=torch.uint8, device="cuda")


@torch.no_grad()
def test_equal_logits(images, backend):
    model = NPRDetector().cuda().eval()
    with nk.backend("reference"):
        want = model(images)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = model.to(memory_format=memory_format)
        with nk.backend(backend):
            torch.testing.assert_close(model(images.contiguous(memory_format=memory_format)), want, rtol=0, atol=1e-4)


# In float32 rounding decides at every ReLU; one unit in the last place of the first weights changes as much.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 5e-2)], ids=str)
def test_equal_training_step(images, backend, dtype, tolerance):
    fused = NPRDetector().cuda().to(dtype)
    layers = copy.deepcopy(fused)
    labels = torch.arange(8.0, device="cuda").view(-1, 1) % 2
    for model, name in ((fused, backend), (layers, "reference")):
        with nk.backend(name):
            F.binary_cross_entropy_with_logits(model(images), labels.to(dtype)).backward()
    for (name, ours), theirs in zip(fused.named_parameters(), layers.parameters(), strict=True):
        assert (ours.grad - theirs.grad).norm() <= tolerance * theirs.grad.norm(), name


@torch.no_grad()
@pytest.mark.parametrize("residual", ["npr", "npr+haar"])
def test_folded(images, backend, residual):
    """cuDNN's fused convolutions are there, the network is captured, and its replays are what it computes."""
    model = randomise(NPRDetector(residual=residual)).cuda().eval()
    with nk.backend(backend), warnings.catch_warnings():
        warnings.simplefilter("error")
        exact, near = model.for_inference(), model.for_inference("bfloat16")
        want = model(images)
        for _ in range(3):  # launched, captured, replayed
            torch.testing.assert_close(exact(images), want, rtol=1e-4, atol=1e-4)
        launched = near(images)
        for _ in range(3):
            assert torch.equal(near(images), launched)
        other = images.flip(0)
        torch.testing.assert_close(near(other), launched.flip(0), rtol=1e-2, atol=1e-2)
        assert (near.features(images).double() - model.features(images)).norm() < 0.05 * model.features(images).norm()


@torch.no_grad()
def test_scores_of_a_stream(images, seed):
    """Batches that overlap give each image its own score."""
    torch.manual_seed(seed)
    model = randomise(NPRDetector()).cuda().eval()
    views = [(n, torch.randint(0, 256, (3, 40 + 8 * (n % 3), 56), dtype=torch.uint8)) for n in range(100)]
    found = dict(score_stream(model, views, 8))
    assert found.keys() == dict(views).keys()
    for n, view in views:
        assert found[n] == pytest.approx(model(view[None].cuda()).double().sigmoid().item(), abs=1e-4)


def test_what_runs_by_default(images):
    """On a CUDA device the kernels are chosen without being asked for, CUDA before Triton, and silently."""
    available = nk.available_backends()
    if not (available["cuda"] or available["triton"]):
        pytest.skip("no fused backend runs on the device")
    model = NPRDetector().cuda().eval()
    with torch.no_grad(), nk.backend("cuda" if available["cuda"] else "triton"):
        want = model.stem(images)
    with torch.no_grad():
        assert torch.equal(model.stem(images), want)
