"""The ops as PyTorch's machinery sees them: opcheck, compile, export, determinism."""

from __future__ import annotations

import pytest
import torch

import npr_kernels as nk
from npr_kernels.backends import native
from tests.npr_kernels.accuracy import assert_relative
from tests.npr_kernels.inputs import draw_images, draw_weight

pytestmark = pytest.mark.skipif(native.extension is None, reason=str(native.unavailable_reason("cpu")))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 3, 9, 12), "nchw"), ((2, 3, 9, 12), "channels_last"), ((2, 3, 9, 12), "strided"), ((0, 3, 4, 4), "nchw")],
)
def test_opcheck_conv2d(rng, shape, layout):
    images, weight = draw_images(rng, shape, layout), draw_weight(rng, 5, 3).requires_grad_()
    for bias, dtype, channels_last in (
        (None, torch.float32, False),
        (torch.randn(5, requires_grad=True), torch.bfloat16, True),
        (torch.randn(5), torch.float64, True),
    ):
        torch.library.opcheck(
            torch.ops.npr.conv2d.default, (images, weight, bias, [0.01, 0.02, 0.03], dtype, channels_last, False)
        )


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "strided"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["no_bias", "bias"])
def test_opcheck_conv2d_backward(rng, layout, has_bias):
    images = draw_images(rng, (2, 3, 9, 12), layout)
    grad = torch.randn(2, 5, 4, 6)
    if layout == "channels_last":
        grad = grad.to(memory_format=torch.channels_last)
    torch.library.opcheck(
        torch.ops.npr.conv2d_backward.default,
        (grad.requires_grad_(), images, [0.01, 0.02, 0.03], torch.float32, has_bias),
    )


def stem_arguments(rng, layout, batch_statistics, save):
    images = draw_images(rng, (2, 3, 9, 12), layout)
    moments = torch.ops.npr.patch_moments(images) if batch_statistics else None
    statistics = (None, None) if batch_statistics else (torch.randn(5), torch.rand(5) + 0.1)
    leaves = [t.requires_grad_(save) for t in (draw_weight(rng, 5, 3), torch.randn(5), torch.randn(5))]
    return images, moments, *leaves, *statistics, 1e-5, [0.01, 0.02, 0.03], torch.float32, save, False


@pytest.mark.parametrize("layout", ["nchw", "strided"])
@pytest.mark.parametrize("batch_statistics", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("save", [False, True], ids=["inference", "training"])
def test_opcheck_stem(rng, layout, batch_statistics, save):
    torch.library.opcheck(torch.ops.npr.stem.default, stem_arguments(rng, layout, batch_statistics, save))


@pytest.mark.parametrize("batch_statistics", [False, True], ids=["running", "batch"])
def test_opcheck_of_what_the_stem_is_made_of(rng, batch_statistics):
    arguments = stem_arguments(rng, "channels_last", batch_statistics, True)
    images, moments, weight, bn_weight = (None if t is None else t.detach() for t in arguments[:4])
    out, code, mean, var = (t.detach() for t in torch.ops.npr.stem(*arguments))
    torch.library.opcheck(torch.ops.npr.patch_moments.default, (images,))
    torch.library.opcheck(
        torch.ops.npr.stem_backward.default,
        (torch.randn_like(out), images, code, moments, weight, bn_weight, mean, var, 1e-5, [0.01, 0.02, 0.03]),
    )


class FirstLayers(torch.nn.Module):
    """The convolution with a bias, and the stem."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nk.NPRConv(3, 8, bias=True)
        self.stem = nk.NPRStem(8)

    def forward(self, images):
        return torch.relu(self.conv(images)).mean((2, 3)) + self.stem(images).mean((2, 3))


def output_and_gradients(module, images):
    module.zero_grad()
    out = module(images)
    out.square().sum().backward()
    return out.detach(), [p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_without_graph_breaks(rng, backend):
    module = FirstLayers()
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    for shape, layout in (((2, 3, 16, 20), "nchw"), ((3, 3, 17, 23), "channels_last")):
        images = draw_images(rng, shape, layout)
        want, want_grads = output_and_gradients(module, images)
        out, grads = output_and_gradients(compiled, images)
        assert_relative(out, want, 1e-5)
        for grad, want_grad in zip(grads, want_grads, strict=True):
            assert_relative(grad, want_grad, 1e-5)


@pytest.mark.filterwarnings("error")
def test_compile_of_a_fallback(rng):
    """Neither the fallback nor the choice of a backend is worth a warning in compiled code."""
    compiled = torch.compile(lambda x, w: nk.npr_conv2d(x, w, patch=4), fullgraph=True, backend="aot_eager")
    images, weight = draw_images(rng, (2, 3, 16, 20)), draw_weight(rng, 4, 3)
    with nk.backend("reference"):
        want = nk.npr_conv2d(images, weight, patch=4)
    assert_relative(compiled(images, weight), want, 1e-6)


def test_compile_under_autocast(rng):
    module = FirstLayers()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    images = draw_images(rng, (2, 3, 16, 20))
    with torch.autocast("cpu", torch.bfloat16):
        out, want = compiled(images), module(images)
    assert out.dtype == want.dtype == torch.bfloat16
    assert_relative(out.detach(), want.detach(), 1e-2)


def test_export(rng):
    module = FirstLayers().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(module, (draw_images(rng, (2, 3, 16, 20)),), dynamic_shapes=({0: batch},))
    assert "npr.conv2d" in exported.graph_module.code
    assert "npr.stem" in exported.graph_module.code
    images = draw_images(rng, (5, 3, 16, 20))
    assert_relative(exported.module()(images).detach(), module(images).detach(), 1e-6)


def test_deterministic_algorithms(rng):
    module, images = FirstLayers(), draw_images(rng, (4, 3, 66, 50))
    torch.use_deterministic_algorithms(True)
    try:
        out, grads = output_and_gradients(module, images)
        again, grads_again = output_and_gradients(module, images)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))
