"""torch.ops.npr.triton_*: their gradients, of every order. The rest is tested with all other backends."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from npr_kernels import reference

pytest.importorskip("triton")

from npr_kernels.backends import triton

pytestmark = pytest.mark.skipif(triton.unavailable_reason() is not None, reason=str(triton.unavailable_reason()))

DEVICE = "cuda" if triton.unavailable_reason() is None and triton.serves(torch.device("cuda")) else "cpu"
STD = (0.2, 0.25, 0.3)
SCALE = [2 / 3 / 255 / std for std in STD]


@pytest.fixture
def images(rng) -> Tensor:
    return torch.from_numpy(rng.integers(0, 256, (2, 3, 10, 14), dtype="uint8")).to(DEVICE)


@pytest.fixture
def weight(rng) -> Tensor:
    return torch.from_numpy(rng.standard_normal((8, 3, 3, 3))).float().to(DEVICE).requires_grad_()


@pytest.fixture
def vector(rng) -> Tensor:
    return torch.from_numpy(rng.standard_normal(8)).float().to(DEVICE).requires_grad_()


def close(result: Tensor, truth: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(result.double(), truth.double(), rtol=0, atol=tolerance * truth.abs().max().item())


def conv2d(images, weight, bias):
    return torch.ops.npr.triton_conv2d(images, weight, bias, SCALE, torch.float32, False, False)


def test_conv2d_gradients_of_every_order(images, weight, vector):
    inputs = (weight, vector)
    out = conv2d(images, *inputs)
    first = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(first[0].square().sum() + first[1].sum(), inputs)

    inputs = tuple(t.detach().double().requires_grad_() for t in inputs)
    out = reference.npr_conv2d(images, *inputs, std=STD, out_dtype=torch.float64)
    first_truth = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
    second_truth = torch.autograd.grad(first_truth[0].square().sum() + first_truth[1].sum(), inputs)
    for result, truth in zip(first, first_truth, strict=True):
        close(result.detach(), truth.detach())
    for result, truth in zip(second, second_truth, strict=True):
        close(result.detach(), truth.detach(), 1e-5)  # those of the bias are differences, and may all be small


def training_stem(images, weight, gamma, beta):
    moments = torch.ops.npr.triton_patch_moments(images)
    out, *_ = torch.ops.npr.triton_stem(
        images, moments, weight, gamma, beta, None, None, 1e-5, SCALE, torch.float64, True, False
    )
    return out


def test_stem_gradients(images, weight, vector):
    """In float64: in float32 one window in some million has its maximum elsewhere, and gradients that are far off."""
    inputs, truth = ([t.detach().double().requires_grad_() for t in (weight, vector, vector.flip(0))] for _ in range(2))
    training_stem(images, *inputs).square().sum().backward()
    out = reference.npr_stem(images, *truth, None, None, training=True, std=STD, out_dtype=torch.float64)
    out.square().sum().backward()
    for result, expected in zip(inputs, truth, strict=True):
        close(result.grad, expected.grad, 1e-9)


def test_refuses_unknown_residuals(images):
    with pytest.raises(ValueError, match=r"residual must be one of npr, haar, npr\+haar, got dct"):
        torch.ops.npr.triton_patch_moments(images, residual="dct")
