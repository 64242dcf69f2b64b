"""The public function npr_conv2d: what a caller sees on the backend that is chosen for them."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

import npr_kernels as nk
from npr_kernels import backends, reference
from tests import needs
from tests.npr_kernels.accuracy import assert_relative, unit_roundoff
from tests.npr_kernels.implementations import alive
from tests.npr_kernels.inputs import LAYOUTS, RESIDUALS, draw_images, draw_weight

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """Each test sees the fallback's warning anew."""
    monkeypatch.setattr(backends, "_said", set())


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("has_bias", [False, True], ids=["no_bias", "bias"])
def test_equals_the_reference_in_float64(rng, dtype, layout, has_bias, residual):
    height, width = (int(size) for size in rng.integers(2, 50, 2))
    images = draw_images(rng, (int(rng.integers(1, 8)), 3, height, width), layout)
    weight = draw_weight(rng, 64, 3, dtype, residual).requires_grad_()
    bias = torch.randn(64).to(dtype).requires_grad_() if has_bias else None

    out = nk.npr_conv2d(images, weight, bias, residual=residual)
    grad = torch.randn(out.shape).to(dtype)
    out.backward(grad)

    true_weight = weight.detach().double().requires_grad_()
    true_bias = bias.detach().double().requires_grad_() if has_bias else None
    truth = reference.npr_conv2d(images, true_weight, true_bias, residual=residual)
    truth.backward(grad.double())
    exact = dtype == torch.float64
    tolerance = (1e-13 if exact else 1e-6) + 2 * unit_roundoff(dtype)
    assert out.dtype == weight.grad.dtype == dtype
    assert_relative(out, truth.detach(), tolerance)
    assert_relative(weight.grad, true_weight.grad, tolerance)
    assert not weight.grad.flatten(1)[:, ~alive(residual, 3)].any()
    if has_bias:
        assert_relative(bias.grad, true_bias.grad, tolerance)


@pytest.mark.usefixtures("instruction_set")
def test_haar_is_a_convolution_of_the_residual_map(rng):
    """The map written out, half of the diagonal difference, and convolved by PyTorch."""
    images, weight = draw_images(rng, (3, 3, 17, 24)), draw_weight(rng, 6, 3, torch.float64)
    x = images[:, :, :16].double() / 255
    band = (x[:, :, ::2, ::2] - x[:, :, ::2, 1::2] - x[:, :, 1::2, ::2] + x[:, :, 1::2, 1::2]) / 2
    band = band / torch.tensor(nk.IMAGENET_STD, dtype=torch.float64).view(3, 1, 1)
    out = nk.npr_conv2d(images, weight, residual="haar")
    assert_relative(out, F.conv2d(band * nk.NPR_SCALE, weight, padding=1), 1e-13)


@pytest.mark.usefixtures("instruction_set")
def test_both_residuals_add_up(rng):
    images, weight = draw_images(rng, (3, 3, 17, 24)), draw_weight(rng, 6, 3, torch.float64, "npr+haar")
    bias = torch.randn(6, dtype=torch.float64)
    out = nk.npr_conv2d(images, weight, bias, residual="npr+haar")
    npr, haar = (nk.npr_conv2d(images, w, residual=r) for w, r in zip(weight.split(3, 1), ("npr", "haar"), strict=True))
    assert_relative(out, npr + haar + bias.view(-1, 1, 1), 1e-13)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("out_dtype", DTYPES, ids=str)
def test_out_dtype(rng, out_dtype, residual):
    images, weight = draw_images(rng, (2, 3, 9, 12)), draw_weight(rng, 8, 3, residual=residual).requires_grad_()
    out = nk.npr_conv2d(images, weight, out_dtype=out_dtype, residual=residual)
    assert out.dtype == out_dtype
    out.sum().backward()
    assert weight.grad.dtype == torch.float32
    truth = reference.npr_conv2d(images, weight.detach().double(), residual=residual)
    assert_relative(out.detach(), truth, 1e-6 + unit_roundoff(out_dtype))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("shape", [(0, 3, 8, 6), (1, 3, 2, 2), (2, 1, 3, 3), (3, 4, 2, 9)], ids=str)
def test_small_and_empty_batches(rng, shape, residual):
    images, weight = draw_images(rng, shape), draw_weight(rng, 5, shape[1], residual=residual).requires_grad_()
    options = {"std": (0.2, 0.3, 0.25, 0.4)[: shape[1]], "residual": residual}
    out = nk.npr_conv2d(images, weight, **options)
    assert out.shape == (shape[0], 5, shape[2] // 2, shape[3] // 2)
    out.sum().backward()
    true_weight = weight.detach().double().requires_grad_()
    reference.npr_conv2d(images, true_weight, **options).sum().backward()
    assert_relative(weight.grad, true_weight.grad, 1e-6)


@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("stride", [None, 3], ids=["fused", "fallback"])
@pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")
def test_output_follows_the_memory_format_of_the_images(rng, layout, stride, residual):
    images, weight = draw_images(rng, (2, 3, 8, 10), layout), draw_weight(rng, 4, 3, residual=residual)
    out = nk.npr_conv2d(images, weight, stride=stride, residual=residual)
    wanted = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    assert out.is_contiguous(memory_format=wanted)


@needs.extension
def test_fused_runs_in_silence(rng, residual):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nk.npr_conv2d(draw_images(rng, (1, 3, 8, 8)), draw_weight(rng, 4, 3, residual=residual), residual=residual)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"patch": 4}, "4x4"),
        ({"anchor": 3}, "pixel 3"),
        ({"mode": "mean"}, "mean"),
        ({"mode": "max"}, "max"),
        ({"stride": 1}, "stride"),
        ({"stride": (2, 1)}, "stride"),
        ({"padding": 0}, "padding"),
        ({"residual": "haar", "stride": 2}, "stride 1"),
        ({"residual": "haar", "padding": 0}, "padding"),
        ({"residual": "npr+haar", "stride": 2}, "stride 1"),
    ],
)
def test_what_is_not_fused_says_so_once(rng, options, reason):
    images = draw_images(rng, (2, 3, 12, 16))
    weight = draw_weight(rng, 4, 3, residual=options.get("residual", "npr"))
    with pytest.warns(nk.NPRFallbackWarning, match=reason):
        out = nk.npr_conv2d(images, weight, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nk.npr_conv2d(images, weight, **options)
    assert_relative(out, reference.npr_conv2d(images, weight.double(), **options), 1e-6)


@needs.extension
@pytest.mark.parametrize("missing", ["haar", "npr+haar"])
def test_a_backend_without_a_residual_says_so_once(rng, monkeypatch, missing):
    images, weight = draw_images(rng, (2, 3, 12, 16)), draw_weight(rng, 4, 3, residual=missing)
    monkeypatch.setattr(backends, "_RESIDUALS", {"cpu": ("npr",)})
    with pytest.warns(nk.NPRFallbackWarning, match=r"npr_conv2d .*cpu: the cpu kernels have no residual"):
        out = nk.npr_conv2d(images, weight, residual=missing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nk.npr_conv2d(images, weight, residual=missing)
    assert torch.equal(out, reference.npr_conv2d(images, weight, residual=missing))
    monkeypatch.setattr(backends, "_requested", "cpu")
    with pytest.raises(ValueError, match="'cpu' was asked for, but the cpu kernels have no residual"):
        nk.npr_conv2d(images, weight, residual=missing)


def test_the_next_backend_runs_what_the_first_lacks(monkeypatch):
    monkeypatch.setattr(backends, "unavailable_reason", lambda name: None)
    monkeypatch.setattr(backends, "_serves", lambda name, device: device.type == "cuda")
    monkeypatch.setattr(backends, "_RESIDUALS", {"cuda": ("npr",)})
    chosen = {name: backends.choose("npr_conv2d", torch.device("cuda"), name, None) for name in RESIDUALS}
    assert chosen == {"npr": "cuda", "haar": "triton", "npr+haar": "triton"}


@pytest.mark.parametrize("size", [1, 2, 5, (3, 1)], ids=str)
@pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")
def test_other_kernel_sizes(rng, size):
    kernel = (size, size) if isinstance(size, int) else size
    images, weight = draw_images(rng, (2, 3, 12, 16)), torch.randn(4, 3, *kernel)
    out = nk.npr_conv2d(images, weight, stride=(1, 3), padding=(2, 0))
    assert_relative(out, reference.npr_conv2d(images, weight.double(), stride=(1, 3), padding=(2, 0)), 1e-6)


def test_float_images_equal_uint8_images(rng, residual):
    images, weight = draw_images(rng, (2, 3, 9, 14)), draw_weight(rng, 6, 3, torch.float64, residual)
    with pytest.warns(nk.NPRFallbackWarning, match=r"torch\.float64"):
        out = nk.npr_conv2d(images.double() / 255, weight, residual=residual)
    assert_relative(out, nk.npr_conv2d(images, weight, residual=residual), 1e-12)


def test_normalised_images_need_no_std(rng, residual):
    images, weight = draw_images(rng, (2, 3, 9, 14)), draw_weight(rng, 6, 3, torch.float64, residual)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (nk.IMAGENET_MEAN, nk.IMAGENET_STD))
    with pytest.warns(nk.NPRFallbackWarning):
        out = nk.npr_conv2d((images.double() / 255 - mean) / std, weight, std=None, residual=residual)
    assert_relative(out, nk.npr_conv2d(images, weight, residual=residual), 1e-12)


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": "mean"}, {"mode": "max"}, {"residual": "haar"}, {"residual": "npr+haar"}],
    ids=lambda options: next(iter(options.values()), "pixel"),
)
@pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")
def test_gradient_to_float_images(rng, options):
    images = torch.from_numpy(rng.random((1, 2, 4, 5))).requires_grad_()
    weight = draw_weight(rng, 3, 2, torch.float64, options.get("residual", "npr")).requires_grad_()
    bias = torch.randn(3).double().requires_grad_()
    run = lambda *leaves: nk.npr_conv2d(*leaves, std=(0.2, 0.3), **options)  # noqa: E731
    assert gradcheck(run, (images, weight, bias))
    assert gradgradcheck(run, (images, weight, bias))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
def test_first_and_second_derivatives(rng, layout, residual):
    images = draw_images(rng, (2, 2, 5, 6), layout)
    weight = draw_weight(rng, 3, 2, torch.float64, residual).requires_grad_()
    bias = torch.randn(3).double().requires_grad_()
    run = lambda *leaves: nk.npr_conv2d(images, *leaves, std=(0.2, 0.3), residual=residual)  # noqa: E731
    assert gradcheck(run, (weight, bias))
    assert gradgradcheck(run, (weight, bias))


@pytest.mark.parametrize("needs", [(True, False), (False, True), (False, False)], ids=str)
def test_only_asked_gradients(rng, needs):
    images, weight, bias = draw_images(rng, (2, 3, 8, 8)), draw_weight(rng, 4, 3), torch.randn(4)
    weight.requires_grad_(needs[0])
    bias.requires_grad_(needs[1])
    out = nk.npr_conv2d(images, weight, bias)
    assert out.requires_grad == any(needs)
    if any(needs):
        out.sum().backward()
    assert (weight.grad is not None, bias.grad is not None) == needs


@needs.extension
def test_backward_keeps_only_the_image(rng, residual):
    images, weight = draw_images(rng, (4, 3, 64, 64)), draw_weight(rng, 64, 3, residual=residual).requires_grad_()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (saved.append(t), t)[1], lambda t: t):
        nk.npr_conv2d(images, weight, residual=residual)
    assert sum(t.numel() * t.element_size() for t in saved) <= images.numel() + weight.numel() * 4


@pytest.mark.usefixtures("instruction_set")
def test_autocast(rng):
    images, weight = draw_images(rng, (2, 3, 8, 8)), draw_weight(rng, 4, 3).requires_grad_()
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            out = nk.npr_conv2d(images, weight)
            explicit = nk.npr_conv2d(images, weight, out_dtype=torch.float64)
        assert out.dtype == dtype
        assert explicit.dtype == torch.float64
        truth = reference.npr_conv2d(images, weight.detach().double())
        assert_relative(out.detach(), truth, 2 * unit_roundoff(dtype))
        weight.grad = None
        out.float().sum().backward()
        assert weight.grad.dtype == torch.float32


@needs.extension
def test_asked_backend_runs_or_raises(rng):
    images, weight = draw_images(rng, (2, 3, 8, 8)), draw_weight(rng, 4, 3)
    with nk.backend("reference"):
        out = nk.npr_conv2d(images, weight)
        with nk.backend("cpu"):
            fused = nk.npr_conv2d(images, weight)
            with pytest.raises(ValueError, match=r"'cpu' was asked for, but .*4x4"):
                nk.npr_conv2d(images, weight, patch=4)
        assert torch.equal(nk.npr_conv2d(images, weight), out)
    assert torch.equal(fused, nk.npr_conv2d(images, weight))
    assert torch.equal(out, reference.npr_conv2d(images, weight))


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("size", [34, 257])
def test_same_bits_for_any_number_of_threads(rng, size, residual):
    images, weight = draw_images(rng, (5, 3, size, size)), draw_weight(rng, 64, 3, residual=residual)
    grad = torch.randn(5, 64, size // 2, size // 2)

    def run(threads):
        torch.set_num_threads(threads)
        leaf = weight.clone().requires_grad_()
        out = nk.npr_conv2d(images, leaf, residual=residual)
        out.backward(grad)
        return out.detach(), leaf.grad

    before = torch.get_num_threads()
    try:
        results = [run(threads) for threads in (1, 2, 1, 3)]
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))
