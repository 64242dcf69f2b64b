"""Textured cells, counted by PyTorch and by every path of the processor, against a loop over the cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from npr_kernels.texture import reference, textured_cells
from tests import needs

SIZES = [(2, 2), (3, 2), (2, 5), (17, 33), (40, 71), (65, 130)]


def sparse(rng: np.random.Generator, *shape: int) -> Tensor:
    """Of one colour but for a few pixels of a channel: [N, 3, H, W]."""
    colour = rng.integers(0, 256, (shape[0], 3, 1, 1))
    bits = np.where(rng.random(shape) < 0.08, 1 << rng.integers(0, 8, shape), 0)
    return torch.from_numpy((colour ^ bits).astype(np.uint8))


def truth(images: Tensor, step: int) -> list[int]:
    count = []
    for image in images.numpy():
        corners = [(y, x) for y in range(0, image.shape[1] - 1, step) for x in range(0, image.shape[2] - 1, step)]
        cells = (image[:, y : y + 2, x : x + 2].reshape(3, 4) for y, x in corners)
        count.append(sum(len({tuple(pixel) for pixel in cell.T}) > 1 for cell in cells))
    return count


@pytest.mark.parametrize("size", SIZES)
def test_every_cell_or_some(path, size, rng):
    images = sparse(rng, 3, 3, *size)
    for step in (2, 1, 3, 6, 1000, 2**63 - 1, 2**70):
        found = textured_cells(images, step)
        assert found.dtype == torch.int64
        assert found.tolist() == truth(images, step)


def test_layouts_batches_and_threads(path, rng):
    images = sparse(rng, 4, 3, 41, 60)
    expected = torch.tensor(truth(images, 2))
    wide = sparse(rng, 4, 3, 45, 130)
    wide[:, :, 2:43, 5:125:2] = images
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            assert torch.equal(textured_cells(images), expected)
            assert torch.equal(textured_cells(images.contiguous(memory_format=torch.channels_last)), expected)
            assert torch.equal(textured_cells(wide[:, :, 2:43, 5:125:2]), expected)
            assert torch.equal(textured_cells(images.transpose(2, 3)), expected)
    finally:
        torch.set_num_threads(threads)
    assert textured_cells(images[:0]).shape == (0,)
    assert textured_cells(images[2:3]).tolist() == [int(expected[2])]


@needs.extension
def test_the_op_runs_unasked(rng, monkeypatch):
    images = sparse(rng, 1, 3, 30, 30)
    monkeypatch.setattr("npr_kernels.texture.reference", None)
    assert textured_cells(images, 4).tolist() == truth(images, 4)
    assert torch.equal(torch.ops.npr.textured_cells(images, 2**63 - 1), textured_cells(images, 30))


@pytest.mark.parametrize("function", [textured_cells, reference])
def test_refuses_what_are_no_images(function):
    with pytest.raises(TypeError, match="images must be a Tensor, got list"):
        function([])
    with pytest.raises(TypeError, match=r"images must be uint8, got torch\.float32"):
        function(torch.zeros(1, 3, 20, 20))
    for shape in ((3, 20, 20), (1, 1, 20, 20), (1, 4, 20, 20), (1, 3, 1, 20), (1, 3, 20, 1)):
        with pytest.raises(ValueError, match=r"images must be \[N, 3, H, W\] with H and W of at least 2, got"):
            function(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        function(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), 0)


@needs.extension
def test_the_op_refuses_what_it_cannot_read():
    for wrong in (torch.zeros(1, 3, 20, 20), *(torch.zeros(*s, 20, dtype=torch.uint8) for s in ((3, 20), (1, 3, 1)))):
        with pytest.raises(RuntimeError, match="images must be uint8"):
            torch.ops.npr.textured_cells(wrong, 2)
    with pytest.raises(RuntimeError, match="step must be at least 1"):
        torch.ops.npr.textured_cells(torch.zeros(1, 3, 20, 20, dtype=torch.uint8), 0)


@needs.extension
@pytest.mark.parametrize("size", [(0, 3, 40, 40), (2, 3, 2, 5), (2, 3, 40, 37)])
def test_opcheck(size, rng):
    torch.library.opcheck(torch.ops.npr.textured_cells, (sparse(rng, *size), 2))
