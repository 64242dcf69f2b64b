"""The op patch_moments of every implementation: exact integers, counted by NumPy."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from tests.npr_kernels.inputs import LAYOUTS, draw_images, on_the_diagonal


def counted(images: torch.Tensor, residual: str) -> np.ndarray:
    """N, sum d and sum d d^T, patch by patch: of NPR the eight neighbours of each cell's anchor in the padded residual,
    of Haar the nine cells around each one."""
    pixels = images.numpy().astype(np.int64)
    n, c, h, w = pixels.shape
    rows, cols = h // 2, w // 2
    npr = np.zeros((n, c, 2 * rows + 1, 2 * cols + 1), dtype=np.int64)  # a row and a column of padding first
    haar = np.zeros((n, c, rows + 2, cols + 2), dtype=np.int64)  # and last
    for y in range(2 * rows):
        for x in range(2 * cols):
            npr[:, :, y + 1, x + 1] = pixels[:, :, y, x] - pixels[:, :, y // 2 * 2, x // 2 * 2]
            haar[:, :, y // 2 + 1, x // 2 + 1] += (-1) ** (y + x) * pixels[:, :, y, x]
    vectors = []
    for oy in range(rows):
        for ox in range(cols):
            window = npr[:, :, 2 * oy : 2 * oy + 3, 2 * ox : 2 * ox + 3].reshape(n, c, 9)
            patch = {
                "npr": np.delete(window, 4, axis=2).reshape(n, 8 * c),
                "haar": haar[:, :, oy : oy + 3, ox : ox + 3].reshape(n, 9 * c),
            }
            vectors.append(np.concatenate([patch[name] for name in residual.split("+")], axis=1))
    d = np.concatenate(vectors)
    return np.concatenate([[len(d)], d.sum(0), (d.T @ d).ravel()])


SHAPES = ((1, 3, 2, 2), (7, 3, 5, 9), (2, 3, 37, 22), (3, 1, 16, 71), (1, 5, 12, 8), (0, 3, 6, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_counts_exactly(implementation, rng, shape, layout, residual):
    implementation.spare(residual != "npr" and not on_the_diagonal(shape, SHAPES, layout, LAYOUTS))
    images = draw_images(rng, shape, layout)
    moments = implementation.patch_moments(images, residual=residual)
    assert moments.dtype == torch.int64
    np.testing.assert_array_equal(moments.numpy(), counted(images, residual))


@cache
def largest_differences(height: int, width: int, residual: str) -> tuple[torch.Tensor, np.ndarray]:
    """An image whose every cell is as far apart as bytes are, and its moments. Differences are odd, 255 and -509, since
    float32 adds up multiples of four beyond 2^24."""
    images = torch.full((1, 3, height, width), 255, dtype=torch.uint8)
    images[:, :, ::2, ::2] = 0
    if residual != "npr":
        images[:, :, ::2, ::2] = 1
        images[:, :, 1::2, 1::2] = 0
    return images, counted(images, residual)


@pytest.mark.parametrize("width", [2, 3, 35, 67])
def test_largest_differences(implementation, width, residual):
    """Sums leave float32's integers at once, and where the image is large enough int32's too."""
    height = 64 if implementation.interpreted else 2 * 40_000 // width
    images, expected = largest_differences(height, width, residual)
    np.testing.assert_array_equal(implementation.patch_moments(images, residual=residual).numpy(), expected)


def test_constant_images_have_no_moments(implementation, residual):
    moments = implementation.patch_moments(torch.full((2, 3, 9, 10), 200, dtype=torch.uint8), residual=residual)
    assert moments[0] == 2 * 4 * 5
    assert not moments[1:].any()
