"""The ops stem and stem_backward of every implementation, against float64 batch norm, ReLU, max-pool and autograd."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from npr_kernels import reference
from tests.npr_kernels.accuracy import assert_within, compute_dtype, unit_roundoff
from tests.npr_kernels.implementations import CLOSED, Reference, alive, convolved_magnitudes
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

# N, C, H, W, O: one pooled pixel, odd sizes at both levels, channels around the kernels' block of 64.
SHAPES = (
    (1, 3, 4, 4, 64),
    (7, 3, 7, 11, 5),
    (2, 3, 37, 34, 64),
    (1, 1, 10, 135, 3),
    (1, 5, 8, 10, 70),
    (3, 3, 2, 2, 4),
)


@dataclass
class Stem:
    """The arguments of a stem: statistics are the batch's where `training`, otherwise mean and var."""

    images: Tensor
    weight: Tensor
    bn_weight: Tensor | None
    bn_bias: Tensor | None
    mean: Tensor
    var: Tensor
    normalisation: Normalisation
    training: bool
    eps: float = 1e-5
    residual: str = "npr"

    @property
    def moments(self) -> Tensor | None:
        return Reference.patch_moments(self.images, self.residual) if self.training else None

    @property
    def channel_scale(self) -> list[float]:
        return self.normalisation.channel_scale(self.residual)

    def forward(self, implementation, out_dtype=torch.float32, save=True, fast=False):
        statistics = (None, None) if self.training else (self.mean, self.var)
        return implementation.stem(
            self.images, self.moments, self.weight, self.bn_weight, self.bn_bias, *statistics, self.eps,
            self.channel_scale, out_dtype, save, fast, residual=self.residual,
        )  # fmt: skip

    def convolution(self, weight: Tensor) -> Tensor:
        options = {"std": self.normalisation.std, "scale": self.normalisation.scale, "residual": self.residual}
        return reference.npr_conv2d(self.images, weight, **options)

    def batch_norm(self, y: Tensor, bn_weight: Tensor | None, bn_bias: Tensor | None) -> Tensor:
        mean, var = (None, None) if self.training else (self.mean.double(), self.var.double())
        return F.batch_norm(y, mean, var, bn_weight, bn_bias, self.training, 0.0, self.eps)

    def used_statistics(self) -> tuple[Tensor, Tensor]:
        y = self.convolution(self.weight.double())
        if self.training:
            return y.mean((0, 2, 3)), y.var((0, 2, 3), correction=0)
        return self.mean.double(), self.var.double()

    def normalised(self) -> Tensor:
        """What ReLU reads, in float64."""
        return self.batch_norm(self.convolution(self.weight.double()), double(self.bn_weight), double(self.bn_bias))

    def magnitude(self) -> Tensor:
        """Largest sum of absolute values in each pooling window, which bounds what float arithmetic can lose."""
        y = convolved_magnitudes(self.images, self.weight.abs(), self.channel_scale, self.residual)
        mean, var = self.used_statistics()
        alpha = torch.rsqrt(var + self.eps) * (1 if self.bn_weight is None else self.bn_weight.double())
        shift = (0 if self.bn_bias is None else self.bn_bias.double().abs()) + (alpha * mean).abs()
        return F.max_pool2d(alpha.abs().view(-1, 1, 1) * y + shift.view(-1, 1, 1), 3, 2, 1)

    def bound(self, dtype: torch.dtype) -> Tensor:
        terms = alive(self.residual, self.images.shape[1]).sum() + 6
        return terms * unit_roundoff(compute_dtype(dtype)) * self.magnitude()


def double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()


def draw_stem(rng, shape, dtype, *, training, layout="nchw", affine=True, residual="npr") -> Stem:
    n, c, h, w, outputs = shape
    gamma = torch.from_numpy(rng.standard_normal(outputs)).to(dtype)  # half of them negative
    gamma[rng.integers(outputs)] = 0
    return Stem(
        images=draw_images(rng, (n, c, h, w), layout),
        weight=draw_weight(rng, outputs, c, dtype, residual),
        bn_weight=gamma if affine else None,
        bn_bias=torch.from_numpy(rng.standard_normal(outputs)).to(dtype) if affine else None,
        mean=torch.from_numpy(rng.standard_normal(outputs)),
        var=torch.from_numpy(rng.uniform(0.01, 4, outputs)),
        normalisation=draw_normalisation(rng, c),
        training=training,
        residual=residual,
    )


@pytest.fixture(params=[False, True], ids=["running", "batch"])
def training(request) -> bool:
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward(implementation, rng, shape, dtype, training, residual):
    implementation.spare(residual != "npr" and not on_the_diagonal(shape, SHAPES, dtype, DTYPES))
    layout, affine = LAYOUTS[rng.integers(len(LAYOUTS))], bool(rng.integers(2))
    stem = draw_stem(rng, shape, dtype, training=training, layout=layout, affine=affine, residual=residual)
    check_forward(implementation, stem, dtype)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forward_layouts(implementation, rng, layout, training, residual):
    implementation.spare(residual == "haar")
    height, width = (int(size) for size in rng.integers(2, implementation.largest_side, 2))
    shape = 3, 3, height, width, 20
    stem = draw_stem(rng, shape, torch.float32, training=training, layout=layout, residual=residual)
    check_forward(implementation, stem, torch.float32)


def check_forward(implementation, stem, dtype):
    out, code, mean, var = stem.forward(implementation, out_dtype=dtype)
    n, _, h, w = stem.images.shape
    assert out.shape == code.shape == (n, len(stem.weight), (h // 2 + 1) // 2, (w // 2 + 1) // 2)
    assert out.dtype == dtype
    assert code.dtype == torch.uint8
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert code.is_contiguous(memory_format=torch.channels_last)
    assert mean.dtype == var.dtype == torch.float64
    true_mean, true_var = stem.used_statistics()
    torch.testing.assert_close(mean, true_mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(var, true_var, rtol=1e-9, atol=1e-12)

    normalised = stem.normalised()
    truth, bound = F.max_pool2d(F.relu(normalised), 3, 2, 1), stem.bound(dtype)
    tie = implementation.tie(dtype, stem.images.shape[1]) * (truth + bound)
    rounding = unit_roundoff(dtype) * (truth + bound + tie) + torch.finfo(dtype).smallest_normal
    assert_within(out, truth, bound + tie + rounding)

    # The code names a position whose value is the maximum, up to rounding; closed gates have nothing above zero.
    chosen = at_code(normalised, code)
    maximum = F.max_pool2d(normalised, 3, 2, 1)
    assert ((code == CLOSED) | (chosen >= maximum - 2 * bound - tie)).all()
    assert ((code != CLOSED) | (maximum <= bound)).all()
    assert ((code == CLOSED) | (maximum >= -bound)).all()

    without_code, none, _, _ = stem.forward(implementation, out_dtype=dtype, save=False)
    if tie.any():
        assert_within(out, without_code.double(), tie + 2 * (bound + rounding))
    else:
        assert torch.equal(without_code, out)
    assert none.shape == (0,)


def at_code(y: Tensor, code: Tensor) -> Tensor:
    """The value of [N, O, rows, cols] that each code points to; -inf for the padding, 0 for closed gates."""
    padded = F.pad(y, (1, 1, 1, 1), value=-torch.inf)
    rows = 2 * torch.arange(code.shape[2]).view(-1, 1) + code.long() // 3
    cols = 2 * torch.arange(code.shape[3]) + code.long() % 3
    index = torch.where(code == CLOSED, 0, rows * padded.shape[3] + cols)
    chosen = padded.flatten(2).gather(2, index.flatten(2)).view(code.shape)
    return torch.where(code == CLOSED, 0, chosen)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("beside", [False, True], ids=["small", "beside a large shift"])
def test_ties_fall_as_in_max_pool2d(implementation, rng, dtype, beside, residual):
    """Small integers everywhere: every arithmetic is exact, ties abound, and the codes must agree one by one.

    Halves where Haar has a part in it. Beside a large shift they differ by 2^-19 of their sum, which is the least that
    all dtypes tell apart.
    """
    implementation.spare(residual != "npr" and dtype != torch.float32)
    shift, unit = (2.0**19 if residual == "npr" else 2.0**18, 2.0**-10) if beside else (0.0, 1.0)
    outputs = 16
    integers = lambda low, high, *shape: torch.from_numpy(rng.integers(low, high, shape)).float()  # noqa: E731
    stem = Stem(
        images=torch.from_numpy(rng.integers(0, 2, (3, 3, 21, 30))).to(torch.uint8),
        weight=integers(-1, 2, outputs, 6 if residual == "npr+haar" else 3, 3, 3),
        bn_weight=unit * integers(-2, 3, outputs),
        bn_bias=unit * (shift + integers(-2, 3, outputs)),
        mean=integers(-2, 3, outputs).double(),
        var=torch.full((outputs,), 1 - 2.0**-10, dtype=torch.float64),  # with eps, exactly 1
        normalisation=Normalisation([1 / 255] * 3, 1.0),
        training=False,
        eps=2.0**-10,
        residual=residual,
    )
    assert set(stem.channel_scale) <= {1.0, 0.5}
    out, code, _, _ = stem.forward(implementation, out_dtype=dtype)
    true_out, true_code, _, _ = stem.forward(Reference, out_dtype=torch.float64)
    assert_within(out, true_out, (unit_roundoff(dtype) if dtype.itemsize == 2 else 0) * 1.01 * true_out)
    assert torch.equal(code, true_code)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_constant_images(implementation, rng, dtype, residual):
    """No variance: the output is ReLU of beta, and the first position of each window inside the image wins."""
    implementation.spare(residual != "npr" and dtype != torch.float32)
    stem = draw_stem(rng, (2, 3, 9, 12, 6), torch.float32, training=True, residual=residual)
    stem.bn_bias = stem.bn_bias.to(dtype)
    stem.images.fill_(77)
    out, code, mean, var = stem.forward(implementation, out_dtype=dtype)
    assert not mean.any()
    assert not var.any()
    assert torch.equal(out, F.relu(stem.bn_bias).view(-1, 1, 1).expand(out.shape))
    first = torch.zeros(out.shape[2:], dtype=torch.uint8)
    first[0] += 3
    first[:, 0] += 1
    assert torch.equal(code, torch.where(stem.bn_bias.view(-1, 1, 1) > 0, first, CLOSED).expand(code.shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_non_finite_parameters(implementation, rng, dtype, training, residual):
    implementation.spare(residual != "npr" and dtype != torch.float32)
    stem = draw_stem(rng, (2, 3, 13, 18, 8), torch.float32, training=training, residual=residual)
    stem.weight[1, 0, 0, 0] = torch.nan
    stem.weight[2, 1, 1, 1] = torch.nan if residual == "haar" else torch.inf  # NPR's centre: zero times infinity
    stem.bn_weight[3] = torch.nan
    stem.bn_bias[4] = torch.nan
    stem.bn_bias[5] = torch.inf
    stem.bn_bias[6] = -torch.inf
    for save in (False, True):
        out, _, _, _ = stem.forward(implementation, out_dtype=dtype, save=save)
        assert out[:, 2:5].isnan().all()
        assert (out[:, 5] == torch.inf).all()
        assert not out[:, 6].any()
        assert out[:, [0, 7]].isfinite().all()
        assert out[:, 1, 1:, 1:].isnan().all()  # inside, where no window meets the padding


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_infinite_weights(implementation, rng, dtype, residual):
    """Infinity times zero is NaN, which no maximum may lose; where all is NaN, nothing is lost."""
    implementation.spare(residual != "npr" and dtype != torch.float32)
    stem = draw_stem(rng, (2, 3, 13, 18, 8), torch.float32, training=False, residual=residual)
    stem.images[:, :, 4:] = 77  # differences of zero
    for output, tap in ((1, 0), (2, 3), (3, 8)):
        stem.weight[output, 1].view(9)[tap] = torch.inf if rng.integers(2) else -torch.inf
    truth, _, _, _ = stem.forward(Reference, out_dtype=torch.float64)
    for save in (False, True):
        out, _, _, _ = stem.forward(implementation, out_dtype=dtype, save=save)
        assert out[truth.isnan()].isnan().all()
        assert (out.isnan() | (out == truth))[:, 1:4].all()
        assert out[:, [0, *range(4, 8)]].isfinite().all()


def test_empty_batch(implementation, rng, residual):
    stem = draw_stem(rng, (0, 3, 9, 12, 6), torch.float32, training=False, residual=residual)
    out, code, _, _ = stem.forward(implementation)
    assert out.shape == code.shape == (0, 6, 2, 3)
    grads = backward(implementation, stem, torch.zeros_like(out), code)
    assert [g.shape for g in grads] == [stem.weight.shape, (6,), (6,)]
    assert not any(g.any() for g in grads)


@pytest.mark.parametrize("shape", SHAPES[:-1], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_backward(implementation, rng, shape, dtype, training, residual):
    implementation.spare(residual != "npr" and not on_the_diagonal(shape, SHAPES, dtype, DTYPES))
    layout = LAYOUTS[rng.integers(len(LAYOUTS))]
    stem = draw_stem(rng, shape, dtype, training=training, layout=layout, residual=residual)
    _, code, _, _ = stem.forward(Reference)
    grad = draw_grad(rng, code.shape, dtype, LAYOUTS[rng.integers(len(LAYOUTS))])
    check_backward(implementation, stem, grad, code)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_backward_layouts(implementation, rng, layout, training, residual):
    implementation.spare(residual != "npr")
    height, width = (int(size) for size in rng.integers(4, implementation.largest_side, 2))
    stem = draw_stem(
        rng, (3, 3, height, width, 20), torch.float32, training=training, layout=layout, affine=False,
        residual=residual,
    )  # fmt: skip
    _, code, _, _ = stem.forward(Reference)
    for grad_layout in LAYOUTS:
        check_backward(implementation, stem, draw_grad(rng, code.shape, torch.float32, grad_layout), code)


def test_backward_through_closed_gates(implementation, rng, training, residual):
    stem = draw_stem(rng, (2, 3, 10, 14, 6), torch.float32, training=training, residual=residual)
    stem.bn_bias.fill_(-1e4)
    out, code, _, _ = stem.forward(implementation)
    assert (code == CLOSED).all()
    assert not any(g.any() for g in backward(implementation, stem, torch.ones_like(out), code))


def backward(implementation, stem, grad, code):
    mean, var = stem.used_statistics()
    return implementation.stem_backward(
        grad, stem.images, code, stem.moments, stem.weight, stem.bn_weight, mean, var, stem.eps,
        stem.channel_scale, residual=stem.residual,
    )  # fmt: skip


def check_backward(implementation, stem, grad, code):
    """Against autograd in float64 through the positions that the code names.

    What adds up in double is held to the gradients' own size, element by element; what adds up in float to the size of
    their terms.
    """
    outputs = len(stem.weight)
    weight = stem.weight.double().requires_grad_()
    gamma = torch.ones(outputs, dtype=torch.float64) if stem.bn_weight is None else stem.bn_weight.double()
    beta = torch.zeros(outputs, dtype=torch.float64) if stem.bn_bias is None else stem.bn_bias.double()
    gamma.requires_grad_()
    beta.requires_grad_()
    y = stem.batch_norm(stem.convolution(weight), gamma, beta)
    at_code(y, code).backward(grad.double())

    dtype = stem.weight.dtype
    tolerance = 1e-11 if grad.dtype == torch.float64 else 1e-6
    result = backward(implementation, stem, grad, code)
    leaves = (weight, gamma, beta)
    for got, leaf, magnitude in zip(result, leaves, gradient_magnitudes(stem, grad, code), strict=True):
        assert got.dtype == dtype
        rounding = 2 * unit_roundoff(dtype) * leaf.grad.abs() + torch.finfo(dtype).smallest_normal
        if implementation.sums_in_double:
            assert_within(got, leaf.grad, tolerance * leaf.grad.abs() + 1e-13 * magnitude + rounding)
        else:
            assert_within(got, leaf.grad, tolerance * magnitude + rounding)
    assert not result[0].flatten(1)[:, ~alive(stem.residual, stem.images.shape[1])].any()


def gradient_magnitudes(stem: Stem, grad: Tensor, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients' sums with every term's absolute value; the terms are those of csrc/stem_algebra.h.

    Rounding is relative to these: the gradients themselves may be small differences of large terms.
    """
    weight = stem.weight.double().abs().requires_grad_()
    y = convolved_magnitudes(stem.images, weight, stem.channel_scale, stem.residual)
    mean, var = stem.used_statistics()
    mean, inv = mean.abs(), torch.rsqrt(var + stem.eps)
    g = torch.where(code == CLOSED, 0, grad.double().abs())

    def with_respect_to_weight(value: Tensor) -> Tensor:
        return torch.autograd.grad(value.sum(), weight, retain_graph=True)[0]

    at_maximum = at_code(y, code)
    beta_grad = g.sum((0, 2, 3))
    gamma_grad = inv * ((g * at_maximum).sum((0, 2, 3)) + mean * beta_grad).detach()
    weight_grad = with_respect_to_weight(g * at_maximum)
    if stem.training:
        xhat = ((y.detach() + mean.view(-1, 1, 1)) * inv.view(-1, 1, 1)) * y
        weight_grad = weight_grad + beta_grad.view(-1, 1, 1, 1) * with_respect_to_weight(y.mean((0, 2, 3)))
        weight_grad = weight_grad + gamma_grad.view(-1, 1, 1, 1) * with_respect_to_weight(xhat.mean((0, 2, 3)))
    gain = inv if stem.bn_weight is None else inv * stem.bn_weight.double().abs()
    return gain.view(-1, 1, 1, 1) * weight_grad, gamma_grad, beta_grad


def test_repeats_bit_for_bit(implementation, rng, residual):
    implementation.spare(residual != "npr")
    size = 24 if implementation.interpreted else 132
    stem = draw_stem(rng, (3, 3, size, size, 64), torch.float32, training=True, residual=residual)
    grad = draw_grad(rng, (3, 64, size // 4, size // 4), torch.float32, "channels_last")

    def run():
        out, code, mean, var = stem.forward(implementation)
        return out, code, mean, var, *backward(implementation, stem, grad, code)

    assert all(torch.equal(first, again) for first, again in zip(run(), run(), strict=True))
