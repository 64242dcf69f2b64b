"""The op patch_moments of every implementation: exact integers, counted by NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.npr_kernels.inputs import LAYOUTS, draw_images


def counted(images: torch.Tensor) -> np.ndarray:
    """N, sum d and sum d d^T, patch by patch: the eight neighbours of each cell's anchor in the padded residual."""
    pixels = images.numpy().astype(np.int64)
    n, c, h, w = pixels.shape
    rows, cols = h // 2, w // 2
    residual = np.zeros((n, c, 2 * rows + 1, 2 * cols + 1), dtype=np.int64)  # a row and a column of padding first
    for y in range(2 * rows):
        for x in range(2 * cols):
            residual[:, :, y + 1, x + 1] = pixels[:, :, y, x] - pixels[:, :, y // 2 * 2, x // 2 * 2]
    k = 8 * c
    count, first, second = n * rows * cols, np.zeros(k, np.int64), np.zeros((k, k), np.int64)
    for oy in range(rows):
        for ox in range(cols):
            window = residual[:, :, 2 * oy : 2 * oy + 3, 2 * ox : 2 * ox + 3].reshape(n, c, 9)
            patch = np.delete(window, 4, axis=2).reshape(n, k)
            first += patch.sum(0)
            second += patch.T @ patch
    return np.concatenate([[count], first, second.ravel()])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "shape", [(1, 3, 2, 2), (7, 3, 5, 9), (2, 3, 37, 22), (3, 1, 16, 71), (1, 5, 12, 8), (0, 3, 6, 4)], ids=str
)
def test_counts_exactly(implementation, rng, shape, layout):
    images = draw_images(rng, shape, layout)
    moments = implementation.patch_moments(images)
    assert moments.dtype == torch.int64
    np.testing.assert_array_equal(moments.numpy(), counted(images))


@pytest.mark.parametrize("width", [2, 3, 35, 67])
def test_largest_differences(implementation, width):
    """Every residual 255: sums leave float32's integers at once, and int32 too where the image is large enough."""
    height = 64 if implementation.interpreted else 2 * 40_000 // width
    images = torch.full((1, 3, height, width), 255, dtype=torch.uint8)
    images[:, :, ::2, ::2] = 0
    np.testing.assert_array_equal(implementation.patch_moments(images).numpy(), counted(images))


def test_constant_images_have_no_moments(implementation):
    moments = implementation.patch_moments(torch.full((2, 3, 9, 10), 200, dtype=torch.uint8))
    assert moments[0] == 2 * 4 * 5
    assert not moments[1:].any()
