"""The CUDA kernels where their tiling shows: several tiles and blocks, ragged edges, every alignment of the images."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests import emulator
from tests.npr_kernels import implementations
from tests.npr_kernels.accuracy import assert_relative
from tests.npr_kernels.implementations import CLOSED, Reference, of_residual
from tests.npr_kernels.inputs import draw_images, draw_weight

SCALES = {"npr": [0.011, 0.013, 0.017], "haar": [0.005, 0.007, 0.009]}
SCALES["npr+haar"] = SCALES["npr"] + SCALES["haar"]
NAMES = ["cuda-emulator", pytest.param("cuda", marks=pytest.mark.gpu)]

# N, H, W. Of npr, tiles are 8 x 64 outputs of the convolution, 4 x 32 pooled ones backward, 4 x 63 pooled ones forward;
# of the others 8 x 32, 4 x 16 and 4 x 31. Images of one tile and a bit across and down, of exactly as many as fit, and
# more of them than blocks.
SHAPES = ((1, 34, 132), (1, 18, 254), (2, 16, 256), (1, 50, 262), (1, 4, 510), (1, 20, 250), (13, 6, 10))


@pytest.fixture(params=NAMES)
def kernels(request: pytest.FixtureRequest, residual: str) -> Iterator[SimpleNamespace]:
    with implementations.loaded(request.param) as loaded:
        yield of_residual(loaded, residual)


@pytest.fixture
def reference(residual: str) -> SimpleNamespace:
    return of_residual(Reference, residual)


@pytest.fixture
def scale(residual: str) -> list[float]:
    return SCALES[residual]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_convolution(kernels, rng, shape, channels_last, reference, scale, residual):
    n, h, w = shape
    layout = "channels_last" if channels_last else "nchw"
    images, weight = draw_images(rng, (n, 3, h, w), layout), draw_weight(rng, 24, 3, residual=residual)
    out = kernels.conv2d(images, weight, None, scale, torch.float32, channels_last, False)
    truth = reference.conv2d(images, weight, None, scale, torch.float64, channels_last, False)
    assert_relative(out, truth, 1e-6)

    grad = torch.from_numpy(rng.standard_normal(out.shape)).float()
    if channels_last:
        grad = grad.contiguous(memory_format=torch.channels_last)
    results = kernels.conv2d_backward(grad, images, scale, torch.float32, True)
    truths = reference.conv2d_backward(grad, images, scale, torch.float64, True)
    for result, true in zip(results, truths, strict=True):
        assert_relative(result, true, 1e-6)

    assert torch.equal(kernels.patch_moments(images), reference.patch_moments(images))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_stem(kernels, rng, shape, reference, scale, residual):
    n, h, w = shape
    images, weight = draw_images(rng, (n, 3, h, w)), draw_weight(rng, 24, 3, residual=residual)
    # Of either sign, and not near zero: there float32 gives positions one value beside beta, and codes are arbitrary.
    gamma = torch.from_numpy(rng.uniform(0.5, 1.5, 24) * rng.choice([-1, 1], 24)).float()
    beta = torch.from_numpy(rng.standard_normal(24)).float()
    moments = reference.patch_moments(images)
    arguments = images, moments, weight, gamma, beta, None, None, 1e-5, scale, torch.float32, True, False
    out, code, mean, var = kernels.stem(*arguments)
    true_out, true_code, true_mean, true_var = reference.stem(*arguments)
    assert_relative(out, true_out, 1e-6)
    assert_relative(mean, true_mean, 1e-12)
    assert_relative(var, true_var, 1e-12)
    assert (code == true_code).float().mean() > 0.999  # but for positions that rounding makes equal

    grad = torch.from_numpy(rng.standard_normal(out.shape)).float().contiguous(memory_format=torch.channels_last)
    backward = grad, images, true_code, moments, weight, gamma, true_mean, true_var, 1e-5, scale
    for result, truth in zip(kernels.stem_backward(*backward), reference.stem_backward(*backward), strict=True):
        assert_relative(result, truth, 1e-6)


@pytest.mark.parametrize("outputs", [1, 31, 33, 64, 65, 130])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_number_of_outputs(kernels, rng, outputs, dtype, reference, scale, residual):
    images, weight = draw_images(rng, (1, 3, 12, 14)), draw_weight(rng, outputs, 3, dtype, residual)
    tolerance = 1e-6 + torch.finfo(dtype).eps
    for channels_last in (False, True):
        arguments = images, weight, None, scale
        out = kernels.conv2d(*arguments, dtype, channels_last, False)
        assert_relative(out, reference.conv2d(*arguments, torch.float64, channels_last, False), tolerance)

    grad = out.contiguous()
    result, _ = kernels.conv2d_backward(grad, images, scale, torch.float32, False)
    truth, _ = reference.conv2d_backward(grad, images, scale, torch.float64, False)
    assert_relative(result, truth, 1e-6)

    moments = reference.patch_moments(images)
    arguments = images, moments, weight, None, None, None, None, 1e-5, scale
    out, _, mean, var = kernels.stem(*arguments, dtype, True, False)
    true_out, code, _, _ = reference.stem(*arguments, torch.float64, True, False)
    assert_relative(out, true_out, tolerance)
    backward = out, images, code, moments, weight.float(), None, mean, var, 1e-5, scale
    for result, truth in zip(kernels.stem_backward(*backward), reference.stem_backward(*backward), strict=True):
        assert_relative(result, truth, 1e-6)


@pytest.mark.parametrize("first", [0, 8, 4, 1], ids=lambda first: f"from byte {first}")
@pytest.mark.parametrize("width", [32, 36, 34], ids=lambda width: f"width {width}")
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_alignment_of_images(kernels, rng, first, width, channels_last, reference, scale, residual):
    """Bytes are copied 16, 4 or 1 at a time, or read 8 at a time, by what the address and the strides allow."""
    n, height = 2, 10
    memory = torch.from_numpy(rng.integers(0, 256, n * 3 * height * width + 32, dtype=np.uint8))
    memory = memory[-memory.data_ptr() % 16 + first :][: n * 3 * height * width]
    images = memory.view(n, height, width, 3).permute(0, 3, 1, 2) if channels_last else memory.view(n, 3, height, width)
    weight = draw_weight(rng, 8, 3, residual=residual)
    out = kernels.conv2d(images, weight, None, scale, torch.float32, False, False)
    assert_relative(out, reference.conv2d(images, weight, None, scale, torch.float64, False, False), 1e-6)
    assert torch.equal(kernels.patch_moments(images), reference.patch_moments(images))


@pytest.mark.parametrize("columns", [47, 42, 34], ids=lambda columns: f"{columns} of 48 columns")
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_crops_of_aligned_images(kernels, rng, columns, channels_last, reference, scale, residual):
    """Copies of 16 bytes must end with the crop: what follows it may not be there."""
    layout = "channels_last" if channels_last else "nchw"
    images = draw_images(rng, (2, 3, 12, 48), layout)[..., :columns]
    weight = draw_weight(rng, 8, 3, residual=residual)
    out = kernels.conv2d(images, weight, None, scale, torch.float32, False, False)
    assert_relative(out, reference.conv2d(images, weight, None, scale, torch.float64, False, False), 1e-6)
    assert torch.equal(kernels.patch_moments(images), reference.patch_moments(images))


def test_a_code_of_every_position(kernels, rng, reference, scale, residual):
    """The backward pass gathers from the position that each code names, whatever the forward pass would have named."""
    images, weight = draw_images(rng, (1, 3, 40, 44)), draw_weight(rng, 12, 3, residual=residual)
    rows, cols = 10, 11
    code = torch.from_numpy(rng.integers(0, CLOSED + 1, (1, 12, rows, cols), dtype=np.uint8))
    code[:, :, 0][code[:, :, 0] < 3] = CLOSED  # no maximum lies in the padding
    code[..., 0][(code[..., 0] % 3 == 0) & (code[..., 0] != CLOSED)] = CLOSED
    code = code.contiguous(memory_format=torch.channels_last)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        grad = torch.from_numpy(rng.standard_normal(code.shape)).to(dtype)
        backward = grad, images, code, None, weight, None, torch.zeros(12).double(), torch.ones(12).double(), 0.0, scale
        (weights, *vectors), truths = kernels.stem_backward(*backward), reference.stem_backward(*backward)
        assert_relative(weights, truths[0], 1e-6)
        for result, truth in zip(vectors, truths[1:], strict=True):
            assert_relative(result, truth, 4e-6)  # twelve sums of either sign, which may all be small


@pytest.mark.parametrize("exponent", [-100, -30, 30, 100])
def test_gradients_of_any_magnitude(kernels, rng, exponent, reference, scale):
    """Splitting float32 gradients into bfloat16 terms must lose none of their 24 bits."""
    images = draw_images(rng, (2, 3, 20, 22))
    grad = torch.from_numpy(rng.standard_normal((2, 8, 10, 11))).float() * 2.0**exponent
    result, _ = kernels.conv2d_backward(grad, images, [2.0**-exponent] * len(scale), torch.float32, False)
    truth, _ = reference.conv2d_backward(grad, images, [2.0**-exponent] * len(scale), torch.float64, False)
    assert_relative(result, truth, 1e-6)


@pytest.mark.parametrize("width", [256, 264, 260, 262, 520])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_moments_of_strips(kernels, rng, width, channels_last, reference):
    """Strips of 128 outputs of the moments: one, one and a bit, of whole lanes or not, and more of them."""
    images = draw_images(rng, (2, 3, 10, width), "channels_last" if channels_last else "nchw")
    assert torch.equal(kernels.patch_moments(images), reference.patch_moments(images))


@pytest.mark.parametrize("multiprocessors", [1, 2, 50])
@pytest.mark.parametrize("width", [132, 136])
def test_any_number_of_blocks_gives_the_same_moments(rng, multiprocessors, width, reference, residual):
    """Persistent blocks share the rows out by how many multiprocessors there are."""
    images = draw_images(rng, (3, 3, 34, width))
    patch_moments = emulator.implementation().patch_moments
    assert torch.equal(patch_moments(images, multiprocessors, residual), reference.patch_moments(images))


@pytest.mark.slow
def test_moments_of_more_outputs_than_int32_counts(reference, residual):
    """A warp has no more outputs than have products of bytes, 255^2 at most, below 2^31: here it would without care."""
    image = torch.zeros(1, 3, 20, 256, dtype=torch.uint8)
    image[:, :, ::2, ::2] = image[:, :, 1::2, 1::2] = 255
    warps = {"npr": 20, "haar": 12, "npr+haar": 8}[residual]  # of a multiprocessor
    count = warps * 2**31 // (255**2 * 10 * 128) + 1
    moments = emulator.implementation().patch_moments(image.expand(count, 3, 20, 256), 1, residual)
    assert torch.equal(moments, count * reference.patch_moments(image))


def test_more_channels_than_the_kernels_take():
    loaded = emulator.implementation()
    images, weight = torch.zeros(1, 385, 2, 2, dtype=torch.uint8), torch.zeros(1, 385, 3, 3)
    with pytest.raises(emulator.EmulatorError, match="prepare_weights: the weight has more than 384 input channels"):
        loaded.conv2d(images, weight, None, [1.0] * 385, torch.float32, False, False)
