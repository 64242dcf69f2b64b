"""The specification itself, against the definitions written out as loops in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import npr_kernels as nk
from npr_kernels import reference
from tests.npr_kernels.inputs import draw_images, draw_weight


def residual_by_hand(images: np.ndarray, patch: int, anchor: int, mode: str) -> np.ndarray:
    """Each pixel minus the representative of its cell, pixel by pixel."""
    n, c, h, w = images.shape
    height, width = h - h % patch, w - w % patch
    out = np.zeros((n, c, height, width))
    for y in range(height):
        for x in range(width):
            top, left = y // patch * patch, x // patch * patch
            cell = images[:, :, top : top + patch, left : left + patch].reshape(n, c, -1)
            represented = {"pixel": cell[:, :, anchor], "mean": cell.mean(2), "max": cell.max(2)}[mode]
            out[:, :, y, x] = images[:, :, y, x] - represented
    return out


def convolution_by_hand(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, stride: int, padding: int) -> np.ndarray:
    n, _, h, w = x.shape
    outputs, _, kh, kw = weight.shape
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out = np.zeros((n, outputs, (h + 2 * padding - kh) // stride + 1, (w + 2 * padding - kw) // stride + 1))
    for y in range(out.shape[2]):
        for z in range(out.shape[3]):
            window = padded[:, :, y * stride : y * stride + kh, z * stride : z * stride + kw]
            out[:, :, y, z] = np.einsum("ncyx,ocyx->no", window, weight) + bias
    return out


def haar_by_hand(images: np.ndarray) -> np.ndarray:
    """Each cell's diagonal minus its other diagonal, cell by cell."""
    n, c, h, w = images.shape
    out = np.zeros((n, c, h // 2, w // 2))
    for y in range(h // 2):
        for x in range(w // 2):
            a, b, below, d = (images[:, :, 2 * y + i, 2 * x + j].astype(float) for i in (0, 1) for j in (0, 1))
            out[:, :, y, x] = a - b - below + d
    return out


ABLATIONS = [
    *((patch, anchor, "pixel") for patch in (2, 3, 4) for anchor in range(patch * patch)),
    *((patch, 0, mode) for patch in (2, 3, 4) for mode in ("mean", "max")),
]


@pytest.mark.parametrize(("patch", "anchor", "mode"), ABLATIONS)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64], ids=str)
def test_residual(rng, patch, anchor, mode, dtype):
    height, width = (int(size) for size in rng.integers(patch, 14, 2))
    images = draw_images(rng, (2, 3, height, width), ["nchw", "channels_last", "strided"][rng.integers(3)])
    if dtype != torch.uint8:
        images = images.to(dtype) / 255
    residual = nk.npr_residual(images, patch=patch, anchor=anchor, mode=mode)
    truth = residual_by_hand(images.double().numpy(), patch, anchor, mode)
    exact = mode != "mean"
    assert residual.dtype == (dtype if dtype != torch.uint8 else torch.int16 if exact else torch.float32)
    np.testing.assert_allclose(residual.numpy(), truth, rtol=0, atol=255 * 2**-23 if dtype == torch.uint8 else 1e-15)
    if exact:
        np.testing.assert_array_equal(residual.numpy(), truth)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 1, 2, 2), (3, 2, 3, 5)], ids=str)
def test_residual_of_small_and_empty_batches(rng, shape):
    residual = nk.npr_residual(draw_images(rng, shape))
    assert residual.shape == (*shape[:2], shape[2] // 2 * 2, shape[3] // 2 * 2)
    assert not residual[:, :, ::2, ::2].any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 1, 2, 2), (3, 2, 3, 5), (2, 3, 13, 18)], ids=str)
def test_haar_residual(rng, dtype, shape):
    images = draw_images(rng, shape, ["nchw", "channels_last", "strided"][rng.integers(3)])
    if dtype != torch.uint8:
        images = images.to(dtype)
    residual = nk.haar_residual(images)
    assert residual.dtype == (torch.int16 if dtype == torch.uint8 else dtype)
    np.testing.assert_array_equal(residual.numpy(), haar_by_hand(images.numpy()))


def test_haar_residual_is_the_diagonal_band(rng):
    """Of the transform's four bands, orthonormal: it and the others together hold the image's energy."""
    images = draw_images(rng, (2, 3, 12, 16)).double()
    left, right = images[..., ::2] + images[..., 1::2], images[..., ::2] - images[..., 1::2]
    bands = [row[:, :, ::2] + sign * row[:, :, 1::2] for row in (left, right) for sign in (1, -1)]
    assert sum((band / 2).square().sum() for band in bands) == images.square().sum()
    assert torch.equal(nk.haar_residual(images), bands[3])


@pytest.mark.parametrize(
    ("size", "stride", "padding", "patch", "anchor", "mode"),
    [(3, 2, 1, 2, 0, "pixel"), (3, 1, 0, 2, 3, "pixel"), (5, 2, 2, 3, 0, "mean"), (1, 3, 0, 4, 0, "max")],
)
def test_convolution(rng, size, stride, padding, patch, anchor, mode):
    """Normalised as the papers do, with the mean that cancels, then residual, 2/3 and convolution."""
    images = draw_images(rng, (2, 3, 13, 18))
    weight = torch.from_numpy(rng.standard_normal((4, 3, size, size)))
    bias = torch.from_numpy(rng.standard_normal(4))
    mean, std = np.array(nk.IMAGENET_MEAN).reshape(3, 1, 1), np.array(nk.IMAGENET_STD).reshape(3, 1, 1)
    normalised = (images.numpy() / 255 - mean) / std
    x = residual_by_hand(normalised, patch, anchor, mode) * 2 / 3
    truth = convolution_by_hand(x, weight.numpy(), bias.numpy(), stride, padding)
    out = reference.npr_conv2d(
        images, weight, bias, stride=stride, padding=padding, patch=patch, anchor=anchor, mode=mode
    )  # fmt: skip
    np.testing.assert_allclose(out.numpy(), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "stride", "padding"), [(3, None, 1), (3, 2, 0), (2, 1, 1), (5, 3, 2)])
def test_haar_convolution(rng, size, stride, padding):
    """The band is half of the difference; the stride counts cells."""
    images = draw_images(rng, (2, 3, 13, 18))
    weight = torch.from_numpy(rng.standard_normal((4, 3, size, size)))
    bias = torch.from_numpy(rng.standard_normal(4))
    mean, std = np.array(nk.IMAGENET_MEAN).reshape(3, 1, 1), np.array(nk.IMAGENET_STD).reshape(3, 1, 1)
    x = haar_by_hand((images.numpy() / 255 - mean) / std) / 2 * 2 / 3
    truth = convolution_by_hand(x, weight.numpy(), bias.numpy(), stride or 1, padding)
    out = reference.npr_conv2d(images, weight, bias, residual="haar", stride=stride, padding=padding)
    np.testing.assert_allclose(out.numpy(), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("size", "stride"), [(3, None), (3, 2), (2, 1), (5, 3)])
def test_both_convolutions_add_up(rng, size, stride):
    """NPR's stride is as many cells, twice as many pixels."""
    images = draw_images(rng, (2, 3, 13, 18))
    weight = torch.from_numpy(rng.standard_normal((4, 6, size, size)))
    bias = torch.from_numpy(rng.standard_normal(4))
    cells, padding = stride or 1, size // 2
    npr = residual_by_hand(images.numpy() / 255, 2, 0, "pixel") / np.reshape(nk.IMAGENET_STD, (3, 1, 1))
    haar = haar_by_hand(images.numpy() / 255) / 2 / np.reshape(nk.IMAGENET_STD, (3, 1, 1))
    truth = convolution_by_hand(npr * 2 / 3, weight[:, :3].numpy(), bias.numpy(), 2 * cells, padding)
    truth += convolution_by_hand(haar * 2 / 3, weight[:, 3:].numpy(), 0 * bias.numpy(), cells, padding)
    out = reference.npr_conv2d(images, weight, bias, residual="npr+haar", stride=stride, padding=padding)
    np.testing.assert_allclose(out.numpy(), truth, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [False, True])
def test_stem(rng, training, residual):
    images, weight = draw_images(rng, (3, 3, 11, 14)), draw_weight(rng, 5, 3, torch.float64, residual)
    gamma, beta = torch.from_numpy(rng.standard_normal(5)), torch.from_numpy(rng.standard_normal(5))
    mean, var = torch.from_numpy(rng.standard_normal(5)), torch.from_numpy(rng.uniform(0.1, 2, 5))
    y = reference.npr_conv2d(images, weight, residual=residual).numpy()
    count = y.size / 5
    used_mean = y.mean((0, 2, 3)) if training else mean.numpy().copy()
    used_var = y.var((0, 2, 3)) if training else var.numpy().copy()
    want_mean = 0.9 * mean.numpy() + 0.1 * used_mean if training else used_mean
    want_var = 0.9 * var.numpy() + 0.1 * used_var * count / (count - 1) if training else used_var

    out = reference.npr_stem(images, weight, gamma, beta, mean, var, training=training, residual=residual)

    column = lambda v: np.asarray(v).reshape(-1, 1, 1)  # noqa: E731
    z = (y - column(used_mean)) / np.sqrt(column(used_var) + 1e-5) * column(gamma) + column(beta)
    z = np.pad(np.maximum(z, 0), ((0, 0), (0, 0), (1, 1), (1, 1)))  # zeros never beat a ReLU's output
    rows, cols = out.shape[2:]
    assert (rows, cols) == (3, 4)
    truth = np.stack(
        [z[:, :, i : i + 2 * rows : 2, j : j + 2 * cols : 2] for i in range(3) for j in range(3)]
    ).max(0)  # fmt: skip
    np.testing.assert_allclose(out.numpy(), truth, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(mean.numpy(), want_mean, rtol=1e-12)
    np.testing.assert_allclose(var.numpy(), want_var, rtol=1e-12)
