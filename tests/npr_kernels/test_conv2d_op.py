"""The ops conv2d and conv2d_backward of every implementation, against the specification in float64."""

from __future__ import annotations

import pytest
import torch

from npr_kernels import reference
from tests.npr_kernels.accuracy import assert_relative, assert_within, dot_product_bound, unit_roundoff
from tests.npr_kernels.implementations import alive, convolved_magnitudes
from tests.npr_kernels.inputs import (
    LAYOUTS,
    Normalisation,
    draw_grad,
    draw_images,
    draw_normalisation,
    draw_weight,
    on_the_diagonal,
)

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# N, C, H, W, O: one cell, odd sizes, a channel count on each side of the kernels' block of 64, and empty batches.
SHAPES = (
    (1, 3, 2, 2, 64),
    (7, 3, 5, 9, 5),
    (2, 3, 37, 22, 64),
    (1, 1, 16, 71, 3),
    (2, 5, 12, 8, 70),
    (0, 3, 8, 6, 4),
)


def truth_and_magnitude(images, weight, bias, normalisation, residual="npr"):
    """The specification in float64, and the same sums of absolute values."""
    options = {"std": normalisation.std, "scale": normalisation.scale, "out_dtype": torch.float64}
    bias = None if bias is None else bias.double()
    truth = reference.npr_conv2d(images, weight.double(), bias, residual=residual, **options)
    magnitude = convolved_magnitudes(images, weight.abs(), normalisation.channel_scale(residual), residual)
    return truth, magnitude if bias is None else magnitude + bias.abs().view(-1, 1, 1)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward(implementation, rng, shape, dtype, residual):
    implementation.spare(residual != "npr" and not on_the_diagonal(shape, SHAPES, dtype, DTYPES))
    n, c, h, w, outputs = shape
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    channels_last, has_bias = bool(rng.integers(2)), bool(rng.integers(2))
    images, normalisation = draw_images(rng, (n, c, h, w), layout), draw_normalisation(rng, c)
    weight = draw_weight(rng, outputs, c, dtype, residual)
    bias = torch.from_numpy(rng.standard_normal(outputs)).to(dtype) if has_bias else None

    scale = normalisation.channel_scale(residual)
    out = implementation.conv2d(images, weight, bias, scale, dtype, channels_last, False, residual=residual)

    assert out.dtype == dtype
    assert out.shape == (n, outputs, h // 2, w // 2)
    assert out.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    truth, magnitude = truth_and_magnitude(images, weight, bias, normalisation, residual)
    assert_within(out, truth, dot_product_bound(truth, magnitude, alive(residual, c).sum(), dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["to_nchw", "to_channels_last"])
def test_forward_layouts(implementation, rng, layout, channels_last, residual):
    implementation.spare(residual == "haar")
    height, width = (int(size) for size in rng.integers(2, implementation.largest_side, 2))
    images, normalisation = draw_images(rng, (2, 3, height, width), layout), draw_normalisation(rng, 3)
    weight = draw_weight(rng, 20, 3, residual=residual)
    out = implementation.conv2d(
        images, weight, None, normalisation.channel_scale(residual), torch.float32, channels_last, False,
        residual=residual,
    )  # fmt: skip
    truth, magnitude = truth_and_magnitude(images, weight, None, normalisation, residual)
    assert_within(out, truth, dot_product_bound(truth, magnitude, alive(residual, 3).sum(), torch.float32))


def test_fast_forward(implementation, rng):
    images, normalisation = draw_images(rng, (2, 3, 20, 34)), draw_normalisation(rng, 3)
    weight = draw_weight(rng, 64, 3)
    out = implementation.conv2d(images, weight, None, normalisation.channel_scale(), torch.float32, True, True)
    truth, magnitude = truth_and_magnitude(images, weight, None, normalisation)
    one_float16_term = unit_roundoff(torch.float16) * magnitude
    assert_within(out, truth, one_float16_term + dot_product_bound(truth, magnitude, 24, torch.float32))


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e6, 1e30])
def test_forward_of_very_small_and_large_weights(implementation, rng, scale):
    """Splitting weights into float16 terms must not lose what float32 holds."""
    images, normalisation = draw_images(rng, (1, 3, 10, 12)), draw_normalisation(rng, 3)
    weight = draw_weight(rng, 8, 3) * torch.tensor(scale)
    out = implementation.conv2d(images, weight, None, normalisation.channel_scale(), torch.float32, False, False)
    truth, magnitude = truth_and_magnitude(images, weight, None, normalisation)
    assert_within(out, truth, dot_product_bound(truth, magnitude, 24, torch.float32))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("tap", [(0, 0), (1, 1), (2, 1)], ids=str)
def test_non_finite_weight(implementation, rng, value, tap, residual):
    images, weight = draw_images(rng, (1, 3, 12, 14)), draw_weight(rng, 6, 3, residual=residual)
    weight[4, 1][tap] = value
    normalisation = Normalisation([1 / 2.55] * 3, 1.0)
    scale = normalisation.channel_scale(residual)
    out = implementation.conv2d(images, weight, None, scale, torch.float32, False, False, residual=residual)
    options = {"std": normalisation.std, "scale": normalisation.scale, "residual": residual}
    truth = reference.npr_conv2d(images, weight.double(), **options)
    inner = (..., slice(1, -1), slice(1, -1))  # PyTorch leaves open whether zero padding meets the weight
    torch.testing.assert_close(out[inner].double(), truth[inner], equal_nan=True, rtol=1e-4, atol=1e-4)
    assert out[:, [0, 1, 2, 3, 5]].isfinite().all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward(implementation, rng, shape, dtype, residual):
    implementation.spare(residual != "npr" and not on_the_diagonal(shape, SHAPES, dtype, DTYPES))
    n, c, h, w, outputs = shape
    layouts = [LAYOUTS[i] for i in rng.integers(len(LAYOUTS), size=2)]
    images, normalisation = draw_images(rng, (n, c, h, w), layouts[0]), draw_normalisation(rng, c)
    grad = draw_grad(rng, (n, outputs, h // 2, w // 2), dtype, layouts[1])
    check_backward(implementation, images, grad, normalisation, dtype, residual)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_layouts(implementation, rng, layout, residual):
    implementation.spare(residual != "npr")
    height, width = (int(size) for size in rng.integers(2, implementation.largest_side, 2))
    images, normalisation = draw_images(rng, (3, 3, height, width), layout), draw_normalisation(rng, 3)
    for grad_layout in LAYOUTS:
        grad = draw_grad(rng, (3, 20, height // 2, width // 2), torch.float32, grad_layout)
        check_backward(implementation, images, grad, normalisation, torch.float32, residual)


def check_backward(implementation, images, grad, normalisation, weight_dtype, residual):
    outputs, channels = grad.shape[1], images.shape[1]
    scale = normalisation.channel_scale(residual)
    run = lambda bias: implementation.conv2d_backward(grad, images, scale, weight_dtype, bias, residual=residual)  # noqa: E731
    grad_weight, grad_bias = run(True)

    weight = torch.zeros(outputs, len(scale), 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(outputs, dtype=torch.float64, requires_grad=True)
    options = {"std": normalisation.std, "scale": normalisation.scale, "residual": residual}
    reference.npr_conv2d(images, weight, bias, **options).backward(grad.double())

    # Of a sum of n terms of either sign, roundings make a random walk: about u sqrt(n / 8) of what such a sum is like.
    terms = grad.shape[0] * grad.shape[2] * grad.shape[3]
    roundings = (8 * (terms / 8) ** 0.5 + 8) * unit_roundoff(torch.float32)
    tolerance = (1e-12 if grad.dtype == torch.float64 else roundings) + 2 * unit_roundoff(weight_dtype)
    assert grad_weight.dtype == grad_bias.dtype == weight_dtype
    assert_relative(grad_weight, weight.grad, tolerance)
    assert_relative(grad_bias, bias.grad, tolerance, usual=grad.double().square().sum((0, 2, 3)).sqrt())
    assert not grad_weight.flatten(1)[:, ~alive(residual, channels)].any()

    without_bias = run(False)
    assert torch.equal(without_bias[0], grad_weight)
    assert without_bias[1].shape == (0,)


def test_repeats_bit_for_bit(implementation, rng, residual):
    implementation.spare(residual != "npr")
    size = 24 if implementation.interpreted else 130
    images, scale = draw_images(rng, (3, 3, size, size)), draw_normalisation(rng, 3).channel_scale(residual)
    weight = draw_weight(rng, 64, 3, residual=residual)
    grad = draw_grad(rng, (3, 64, size // 2, size // 2), torch.float32, "nchw")

    def run():
        out = implementation.conv2d(images, weight, None, scale, torch.float32, False, False, residual=residual)
        return out, *implementation.conv2d_backward(grad, images, scale, torch.float32, True, residual=residual)

    assert all(torch.equal(first, again) for first, again in zip(run(), run(), strict=True))
