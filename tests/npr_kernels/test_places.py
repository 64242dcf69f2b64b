"""The public functions and layers on every backend's device, against the reference in float64 on the same device."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import npr_kernels as nk
from npr_kernels import reference
from tests.npr_kernels.accuracy import assert_relative, unit_roundoff
from tests.npr_kernels.implementations import moved
from tests.npr_kernels.inputs import LAYOUTS, draw_images, draw_weight

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(autouse=True)
def _float32_is_float32(monkeypatch):
    """cuDNN's convolutions, which the reference runs on, round their factors to TF32 otherwise."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_convolution(place, rng, dtype, layout):
    images = moved(draw_images(rng, (3, 3, 13, 22), layout), place.device)
    weight = draw_weight(rng, 20, 3, dtype).to(place.device).requires_grad_()
    bias = torch.randn(20, device=place.device).to(dtype).requires_grad_()
    out = nk.npr_conv2d(images, weight, bias)
    channels_last = layout == "channels_last"
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    grad = torch.randn(out.shape, device=place.device).to(dtype)
    out.backward(grad)

    truth = [t.detach().double().requires_grad_() for t in (weight, bias)]
    reference.npr_conv2d(images, *truth).backward(grad.double())
    tolerance = (1e-12 if dtype == torch.float64 else 1e-6) + 2 * unit_roundoff(dtype)
    assert_relative(out.detach(), reference.npr_conv2d(images, *truth).detach(), tolerance)
    assert_relative(weight.grad, truth[0].grad, tolerance)
    assert_relative(bias.grad, truth[1].grad, tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_stem_under_autocast(place, rng, dtype, training):
    images, stem = draw_images(rng, (2, 3, 21, 34)).to(place.device), nk.NPRStem(12).to(place.device).train(training)
    truth = nk.NPRStem(12, dtype=torch.float64, device=place.device).train(training)
    truth.load_state_dict(stem.state_dict())
    with torch.autocast(place.device, dtype, enabled=dtype != torch.float32):
        out = stem(images)
    with nk.backend("reference"):
        want = truth(images)
    assert out.dtype == dtype
    assert_relative(out.detach(), want.detach(), 1e-5 + 2 * unit_roundoff(dtype))
    for ours, theirs in zip(stem.buffers(), truth.buffers(), strict=True):
        assert_relative(ours, theirs, 1e-5)


def test_stem_learns_as_the_reference_does(place, rng):
    """Close on the whole, not one by one: of some million windows one has its maximum elsewhere by rounding, and moves
    the gradients by a thousandth to a fiftieth."""
    images = draw_images(rng, (4, 3, 32, 36)).to(place.device)
    stem = nk.NPRStem(8).to(place.device)
    target = torch.randn(4, 8, 8, 9, device=place.device)
    gradients = []
    for backend in (place.backend, "reference"):
        stem.zero_grad()
        with nk.backend(backend):
            F.mse_loss(stem(images), target).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in stem.parameters()]))
    assert (gradients[0] - gradients[1]).norm() <= 5e-2 * gradients[1].norm()


def test_inputs_on_different_devices(place, rng):
    images, weight = draw_images(rng, (1, 3, 8, 8)).to(place.device), draw_weight(rng, 4, 3)
    with pytest.raises(ValueError, match=r"npr_conv2d: weight must be on the images' device .*, got meta"):
        nk.npr_conv2d(images, weight.to("meta"))
    if place.device != "cpu":
        with pytest.raises(ValueError, match=r"npr_conv2d: weight must be on the images' device cuda:0, got cpu"):
            nk.npr_conv2d(images, weight)
        with pytest.raises(ValueError, match="the images are on cpu"):
            nk.npr_conv2d(images.cpu(), weight)


@pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")
def test_what_is_not_fused_runs_on_the_device(place, rng):
    images, weight = draw_images(rng, (2, 3, 12, 16)).to(place.device), draw_weight(rng, 4, 3).to(place.device)
    with nk.backend("reference"):
        want = nk.npr_conv2d(images, weight, patch=4, stride=1)
    with pytest.raises(ValueError, match="was asked for, but fused kernels subtract"):
        nk.npr_conv2d(images, weight, patch=4, stride=1)
    assert want.device == images.device
    assert_relative(want.cpu(), reference.npr_conv2d(images.cpu(), weight.double().cpu(), patch=4, stride=1), 1e-5)
