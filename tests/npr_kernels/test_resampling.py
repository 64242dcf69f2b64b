"""Profiles of second differences: PyTorch's and every path of the processor's, against NumPy by formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from npr_kernels.resampling import profiles, reference
from tests import needs

# Strips are of 96 rows, and logarithms of 96 columns.
SIZES = [(3, 3), (3, 40), (41, 3), (95, 97), (96, 96), (97, 98), (99, 193), (194, 300)]


def noise(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.integers(0, 256, shape, dtype=np.uint8))


def truth(images: Tensor) -> tuple[np.ndarray, np.ndarray]:
    red, green, blue = np.moveaxis(images.numpy().astype(np.int64), 1, 0)
    luma = (77 * red + 150 * green + 29 * blue) // 256
    across, down = (np.log(1.0 + np.abs(np.diff(luma, n=2, axis=axis))) for axis in (2, 1))
    return across.mean(axis=1), down.mean(axis=2)


def check(images: Tensor) -> None:
    for found, expected in zip(profiles(images), truth(images), strict=True):
        assert found.dtype == torch.float64
        assert found.shape == expected.shape
        assert np.allclose(found.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
def test_random_images(path, size, rng):
    check(noise(rng, 2, 3, *size))


def test_the_largest_differences(path, rng):
    """Of which products are the largest that there are: a check of single pixels, black and white."""
    y, x = np.mgrid[:200, :210]
    image = np.where((y + x) % 2 == rng.integers(2), 255, 0).astype(np.uint8)
    images = torch.from_numpy(image).expand(1, 3, -1, -1)
    check(images)
    across, down = profiles(images)
    assert np.allclose([*across[0], *down[0]], np.log(511), rtol=0, atol=1e-12)


def test_flat_images_and_empty_batches(path, rng):
    for value in rng.integers(0, 256, 3):
        for found in profiles(torch.full((2, 3, 100, 101), int(value), dtype=torch.uint8)):
            assert not found.any()
    across, down = profiles(torch.zeros(0, 3, 40, 50, dtype=torch.uint8))
    assert across.shape == (0, 48)
    assert down.shape == (0, 38)


def test_layouts_give_the_same_bits(path, rng):
    images = noise(rng, 2, 3, 110, 93)
    expected = profiles(images)
    wide = noise(rng, 2, 3, 115, 200)
    wide[:, :, 3:113, 10:196:2] = images
    padded = noise(rng, 2, 4, 113, 99)
    padded[:, 1:, 1:111, 4:97] = images
    layouts = {
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "columns of a wider one": wide[:, :, 3:113, 10:196:2],
        "a part of a larger one": padded[:, 1:, 1:111, 4:97],
        "a part in channels_last": padded.contiguous(memory_format=torch.channels_last)[:, 1:, 1:111, 4:97],
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for name, layout in layouts.items():
        assert torch.equal(layout, images), name
        assert all(map(torch.equal, profiles(layout), expected)), name
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert all(map(torch.equal, profiles(grey), profiles(grey.contiguous())))


def test_an_image_alone_in_a_batch_and_on_more_threads(path, rng):
    images = noise(rng, 5, 3, 120, 131)
    threads = torch.get_num_threads()
    together = profiles(images)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert all(map(torch.equal, profiles(images), together))
            for i in range(5):
                assert all(torch.equal(a[0], b[i]) for a, b in zip(profiles(images[i : i + 1]), together, strict=True))
    finally:
        torch.set_num_threads(threads)


@needs.extension
def test_the_op_runs_unasked(rng, monkeypatch):
    images = noise(rng, 1, 3, 130, 130)
    monkeypatch.setattr("npr_kernels.resampling.reference", None)
    assert all(map(torch.equal, profiles(images), torch.ops.npr.profiles(images)))


@pytest.mark.parametrize("function", [profiles, reference])
def test_refuses_what_are_no_images(function):
    with pytest.raises(TypeError, match="images must be a Tensor, got list"):
        function([])
    with pytest.raises(TypeError, match=r"images must be uint8, got torch\.float32"):
        function(torch.zeros(1, 3, 20, 20))
    for shape in ((3, 20, 20), (1, 1, 20, 20), (1, 4, 20, 20), (1, 3, 2, 20), (1, 3, 20, 2)):
        with pytest.raises(ValueError, match=r"images must be \[N, 3, H, W\] with H and W of at least 3, got"):
            function(torch.zeros(shape, dtype=torch.uint8))


@needs.extension
def test_the_op_refuses_what_it_cannot_read():
    for wrong in (torch.zeros(1, 3, 20, 20), *(torch.zeros(*s, 20, dtype=torch.uint8) for s in ((3, 20), (1, 3, 2)))):
        with pytest.raises(RuntimeError, match="images must be uint8"):
            torch.ops.npr.profiles(wrong)


@needs.extension
@pytest.mark.parametrize("size", [(0, 3, 40, 40), (2, 3, 3, 5), (2, 3, 40, 37)])
def test_opcheck(size, rng):
    torch.library.opcheck(torch.ops.npr.profiles, (noise(rng, *size),))
