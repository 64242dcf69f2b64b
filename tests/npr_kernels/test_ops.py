"""The ops as PyTorch's machinery sees them, on every backend: opcheck, compile, export, autocast, determinism."""

from __future__ import annotations

import pytest
import torch

import npr_kernels as nk
from tests import needs
from tests.npr_kernels.accuracy import assert_relative
from tests.npr_kernels.implementations import moved
from tests.npr_kernels.inputs import draw_images, draw_weight

SCALE = [0.01, 0.02, 0.03]


def scale_of(residual: str) -> list[float]:
    return SCALE * 2 if residual == "npr+haar" else SCALE


@pytest.fixture(autouse=True)
def _nothing_compiled():
    """Each place compiles anew: torch.compile gives up on a function that it has compiled in too many ways."""
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 3, 9, 12), "nchw"), ((2, 3, 9, 12), "channels_last"), ((2, 3, 9, 12), "strided"), ((0, 3, 4, 4), "nchw")],
)
def test_opcheck_conv2d(place, rng, shape, layout, residual):
    place.spare(residual != "npr" and layout != "strided")
    images = moved(draw_images(rng, shape, layout), place.device)
    weight = draw_weight(rng, 5, 3, residual=residual).to(place.device).requires_grad_()
    for bias, dtype, channels_last in (
        (None, torch.float32, False),
        (torch.randn(5, device=place.device, requires_grad=True), torch.bfloat16, True),
        (torch.randn(5, device=place.device), torch.float64, True),
    ):
        arguments = images, weight, bias, scale_of(residual), dtype, channels_last, False
        torch.library.opcheck(place.op("conv2d"), arguments, {"residual": residual})


@pytest.mark.parametrize("layout", ["nchw", "channels_last", "strided"])
@pytest.mark.parametrize("has_bias", [False, True], ids=["no_bias", "bias"])
def test_opcheck_conv2d_backward(place, rng, layout, has_bias, residual):
    place.spare(residual != "npr" and not (layout == "strided" and has_bias))
    images = moved(draw_images(rng, (2, 3, 9, 12), layout), place.device)
    grad = torch.randn(2, 5, 4, 6, device=place.device)
    if layout == "channels_last":
        grad = grad.to(memory_format=torch.channels_last)
    arguments = grad.requires_grad_(), images, scale_of(residual), torch.float32, has_bias
    torch.library.opcheck(place.op("conv2d_backward"), arguments, {"residual": residual})


def stem_arguments(place, rng, layout, batch_statistics, save, residual):
    images = moved(draw_images(rng, (2, 3, 9, 12), layout), place.device)
    moments = place.op("patch_moments")(images, residual=residual) if batch_statistics else None
    vectors = [torch.randn(5, device=place.device) for _ in range(4)]
    statistics = (None, None) if batch_statistics else (vectors[2], vectors[3].abs() + 0.1)
    leaves = [
        t.requires_grad_(save) for t in (draw_weight(rng, 5, 3, residual=residual).to(place.device), *vectors[:2])
    ]
    return images, moments, *leaves, *statistics, 1e-5, scale_of(residual), torch.float32, save, False


@pytest.mark.parametrize("layout", ["nchw", "strided"])
@pytest.mark.parametrize("batch_statistics", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("save", [False, True], ids=["inference", "training"])
def test_opcheck_stem(place, rng, layout, batch_statistics, save, residual):
    place.spare(residual != "npr" and not (layout == "strided" and batch_statistics and save))
    arguments = stem_arguments(place, rng, layout, batch_statistics, save, residual)
    torch.library.opcheck(place.op("stem"), arguments, {"residual": residual})


@pytest.mark.parametrize("batch_statistics", [False, True], ids=["running", "batch"])
def test_opcheck_of_what_the_stem_is_made_of(place, rng, batch_statistics, residual):
    place.spare(residual != "npr" and not batch_statistics)
    arguments = stem_arguments(place, rng, "channels_last", batch_statistics, True, residual)
    images, moments, weight, bn_weight = (None if t is None else t.detach() for t in arguments[:4])
    out, code, mean, var = (t.detach() for t in place.op("stem")(*arguments, residual=residual))
    torch.library.opcheck(place.op("patch_moments"), (images,), {"residual": residual})
    torch.library.opcheck(
        place.op("stem_backward"),
        (torch.randn_like(out), images, code, moments, weight, bn_weight, mean, var, 1e-5, scale_of(residual)),
        {"residual": residual},
    )


class FirstLayers(torch.nn.Module):
    """The convolution with a bias, and the stem."""

    def __init__(self, residual: str = "npr") -> None:
        super().__init__()
        self.conv = nk.NPRConv(3, 8, bias=True, residual=residual)
        self.stem = nk.NPRStem(8, residual=residual)

    def forward(self, images):
        return torch.relu(self.conv(images)).mean((2, 3)) + self.stem(images).mean((2, 3))


def output_and_gradients(module, images):
    module.zero_grad()
    out = module(images)
    out.square().sum().backward()
    return out.detach(), [p.grad.clone() for p in module.parameters()]


@pytest.mark.parametrize("compiler", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compile_without_graph_breaks(place, rng, compiler, residual):
    place.spare(residual != "npr")
    module = FirstLayers(residual).to(place.device)
    compiled = torch.compile(module, fullgraph=True, backend=compiler)
    for shape, layout in (((2, 3, 16, 20), "nchw"), ((3, 3, 17, 23), "channels_last")):
        images = moved(draw_images(rng, shape, layout), place.device)
        want, want_grads = output_and_gradients(module, images)
        out, grads = output_and_gradients(compiled, images)
        assert_relative(out, want, 1e-5)
        for grad, want_grad in zip(grads, want_grads, strict=True):
            assert_relative(grad, want_grad, 1e-5)


@needs.extension
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{"patch": 4}, {"residual": "npr+haar", "stride": 2}], ids=str)
def test_compile_of_a_fallback(rng, options):
    """Neither the fallback nor the choice of a backend is worth a warning in compiled code."""
    compiled = torch.compile(lambda x, w: nk.npr_conv2d(x, w, **options), fullgraph=True, backend="aot_eager")
    images, weight = draw_images(rng, (2, 3, 16, 20)), draw_weight(rng, 4, 3, residual=options.get("residual", "npr"))
    with nk.backend("reference"):
        want = nk.npr_conv2d(images, weight, **options)
    assert_relative(compiled(images, weight), want, 1e-6)


def test_compile_under_autocast(place, rng, residual):
    place.spare(residual != "npr")
    module = FirstLayers(residual).to(place.device)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    images = draw_images(rng, (2, 3, 16, 20)).to(place.device)
    with torch.autocast(place.device, torch.bfloat16):
        out, want = compiled(images), module(images)
    assert out.dtype == want.dtype == torch.bfloat16
    assert_relative(out.detach(), want.detach(), 1e-2)


def test_export(place, rng, residual):
    place.spare(residual != "npr")
    module = FirstLayers(residual).to(place.device).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    example = draw_images(rng, (2, 3, 16, 20)).to(place.device)
    exported = torch.export.export(module, (example,), dynamic_shapes=({0: batch},))
    for name in ("conv2d", "stem"):
        assert str(place.op(name)) in exported.graph_module.code
    images = draw_images(rng, (5, 3, 16, 20)).to(place.device)
    assert_relative(exported.module()(images).detach(), module(images).detach(), 1e-6)


def test_deterministic_algorithms(place, rng, monkeypatch, residual):
    place.spare(residual != "npr")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    size = (2, 3, 18, 14) if place.device == "cpu" and place.backend == "triton" else (4, 3, 66, 50)
    module, images = FirstLayers(residual).to(place.device), draw_images(rng, size).to(place.device)
    torch.use_deterministic_algorithms(True)
    try:
        out, grads = output_and_gradients(module, images)
        again, grads_again = output_and_gradients(module, images)
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(out, again)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))
