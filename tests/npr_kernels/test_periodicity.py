"""The coherence of the strength of detail: PyTorch's and every path of the processor's, against float64 by formula."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

import npr_kernels as nk
from npr_kernels import periodicity
from npr_kernels.periodicity import DIFFERENCES, LOGARITHM, SHAPE, blocks_of, coherence, reference
from tests import needs

UNIT = 2.0**-24  # what float32 rounds by, relatively
FLAT = 1e-6  # energy of a block that is none

SIZES = [(18, 18), (33, 50), (63, 71), (34, 290), (300, 40), (35, 2200)]
"""The last ones have more than a region of each path: across, down, and the widest."""


# ---- The truth --------------------------------------------------------------------------------------------


class Truth(NamedTuple):
    """T, how far float arithmetic may be from it, and the energy of a block, each of :data:`SHAPE`."""

    coherence: np.ndarray
    bound: np.ndarray
    energy: np.ndarray


def strengths(image: np.ndarray) -> np.ndarray:
    """|r|, [8, 3, rows, columns], where there are whole tiles."""
    rows, columns = ((side - 2) // 16 * 16 for side in image.shape[1:])
    found = []
    for taps in DIFFERENCES.values():
        window = np.lib.stride_tricks.sliding_window_view(image.astype(np.int64), (3, 3), axis=(1, 2))
        found.append(np.abs((window * np.array(taps)).sum(axis=(3, 4)))[:, :rows, :columns])
    return np.stack(found).astype(np.float64)


def truth(image: Tensor, further: float = 0) -> Truth:
    """Of uint8 [3, H, W] that has a tile; its logarithms may be off by a further error.

    Of the edges, the numbers are 0 and 1, exactly. A block's other numbers v are wrong by what the logarithm is, and by
    4 roundings of its argument: of 0.3, of m + 0.5, of their product and of the sum. So F is wrong by 64 times that,
    and by 16 roundings of numbers whose magnitudes add up to the block's: 5 in each direction and one to join them, of
    two parts, are fewer. Sums over blocks have at most 32 roundings in float. The rest is interval arithmetic on
    T = |S|^2 / E.
    """
    r = strengths(image.numpy())
    tiles = r.reshape(8, 3, r.shape[2] // 16, 16, r.shape[3] // 16, 16)
    mean = tiles.mean(axis=(3, 5), keepdims=True)
    v = np.stack([np.log(tiles + 0.3 * (mean + 0.5)).reshape(r.shape), np.log(r + 20), r > 20])
    wrong = np.array([1, 1, 0]).reshape(3, 1, 1, 1, 1, 1, 1) * (LOGARITHM + 4 * UNIT + further)
    v = v.reshape(3, 8, 3, r.shape[2] // 8, 8, r.shape[3] // 8, 8)
    wave = np.exp(-2j * np.pi * np.outer(np.arange(8), np.arange(8)) / 8)
    f = np.einsum("ay,sdciyjx,bx->sdcijab", wave, v, wave[:5], optimize=True)
    off = 64 * wrong + 16 * UNIT * np.abs(v).sum(axis=(4, 6))[..., None, None]
    along = (3, 4)
    together, energy = np.abs(f.sum(axis=along)), (np.abs(f) ** 2).sum(axis=along)
    together_off = off.sum(axis=along) + 2 * 32 * UNIT * np.abs(f).sum(axis=along)
    energy_off = (2 * np.abs(f) * off + off**2).sum(axis=along) + 40 * UNIT * energy
    blocks = f.shape[3] * f.shape[4]
    with np.errstate(divide="ignore", invalid="ignore"):
        value = together**2 / energy
        bound = (2 * together * together_off + together_off**2 + value * energy_off) / (energy - energy_off)
        bound += 2 * UNIT * (value + bound)
    flat, energetic = energy + energy_off <= FLAT * blocks, energy - energy_off > FLAT * blocks
    value = np.where(flat, 1, value)
    # Between the two, rounding decides whether a frequency counts as flat.
    return Truth(value, np.where(flat, 0, np.where(energetic, bound, np.inf)), energy / blocks)


def check(found: Tensor, images: Tensor, further: float = 0) -> None:
    assert found.dtype == torch.float32
    assert found.shape == (len(images), *SHAPE)
    for each, image in zip(found.double().numpy(), images, strict=True):
        expected = truth(image, further)
        error = np.abs(each - expected.coherence)
        assert (error <= expected.bound).all(), (error / expected.bound).max()


# ---- Images -----------------------------------------------------------------------------------------------


def noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def texture(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Smooth noise, weak on one side and strong on the other."""
    x = rng.normal(size=shape)
    for axis in (-1, -2):
        x = x + np.roll(x, 1, axis) + np.roll(x, 2, axis)
    return np.clip(128 + x * np.linspace(0.2, 12, shape[-1]), 0, 255).astype(np.uint8)


def bits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 2, shape, dtype=np.uint8)


def extremes(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """0 and 255, with which differences are as large as they can be."""
    return 255 * bits(rng, *shape)


def gradient(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Steps of one size, which wrap around at 256."""
    y, x = np.indices(shape[-2:])
    return np.broadcast_to((int(rng.integers(1, 5)) * x + int(rng.integers(1, 5)) * y) % 256, shape).astype(np.uint8)


def speck(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Flat but for one pixel that is one step brighter: there is hardly any energy."""
    image = np.full(shape, int(rng.integers(0, 255)), np.uint8)
    image[..., int(rng.integers(2, 15)), int(rng.integers(2, 15))] += 1
    return image


CONTENTS = {each.__name__: each for each in (noise, texture, bits, extremes, gradient, speck)}


# ---- Tests ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
def test_equals_the_formula(path, size, rng):
    images = torch.from_numpy(np.stack([noise(rng, 3, *size), texture(rng, 3, *size)]))
    check(coherence(images), images)
    # Or a bound that says nothing would have passed: there is energy everywhere, and T is known to a tenth where it is
    # largest but for the frequency 0.
    expected = truth(images[0])
    assert np.isfinite(expected.bound).all()
    relative = expected.bound / (1 + expected.coherence)
    assert relative.max() < 0.1


@pytest.mark.parametrize("content", CONTENTS)
def test_equals_the_formula_whatever_the_content(path, content, rng):
    images = torch.from_numpy(CONTENTS[content](rng, 2, 3, 90, 150))
    check(coherence(images), images)


def test_differences_sum_to_zero_and_fit():
    for taps in np.array(list(DIFFERENCES.values())):
        assert taps.sum() == 0
        assert np.abs(taps).sum() / 2 <= 8


def all_but_frequency_0(found: Tensor) -> Tensor:
    return found.flatten(-2)[..., 1:]


@pytest.mark.parametrize("value", [0, 77, 255])
def test_flat_images_give_1(path, value):
    found = coherence(torch.full((2, 3, 50, 66), value, dtype=torch.uint8))
    assert (all_but_frequency_0(found) == 1).all()


@pytest.mark.parametrize("step", [1, 3])
def test_a_ramp_gives_1(path, step):
    """Its differences are the same everywhere."""
    ramp = (step * torch.arange(66) + torch.arange(50)[:, None]).to(torch.uint8)
    found = coherence(ramp.expand(1, 3, -1, -1))
    assert (all_but_frequency_0(found) == 1).all()


@pytest.mark.parametrize("size", [(0, 0), (1, 1), (2, 2), (17, 100), (100, 17)])
def test_images_without_a_tile_give_1(path, size):
    assert blocks_of(*size) == 0
    found = coherence(torch.zeros(2, 3, *size, dtype=torch.uint8))
    assert found.shape == (2, *SHAPE)
    assert (found == 1).all()


def test_empty_batch(path):
    found = coherence(torch.zeros(0, 3, 64, 64, dtype=torch.uint8))
    assert found.shape == (0, *SHAPE)
    assert found.dtype == torch.float32


def test_from_0_to_the_number_of_blocks(path, rng):
    images = torch.from_numpy(np.stack([texture(rng, 3, 100, 80), bits(rng, 3, 100, 80)]))
    found = coherence(images)
    assert (found >= 0).all()
    assert (found <= blocks_of(100, 80) * (1 + 1e-5)).all()


def test_equal_blocks_agree_wherever_the_image_is_cut(path, rng):
    """All blocks have the same transform, of other phases with every cut. Where a random block happens to have hardly
    any energy, rounding is a large part of it."""
    whole = np.tile(noise(rng, 3, 8, 8), (1, 12, 12))
    for k in range(8):
        image = torch.from_numpy(whole[:, k : k + 66, 7 - k : 7 - k + 82].copy())
        expected = truth(image)
        found = coherence(image[None])[0].double().numpy()
        strong = expected.energy > 0.1
        assert strong.mean() > 0.9
        assert np.allclose(expected.coherence[strong], blocks_of(66, 82))
        # Relatively, T is right to twice what F is, which is to 64 errors of logarithms and roundings of some 500.
        relative = 4 * (64 * (LOGARITHM + 4 * UNIT) + 16 * UNIT * 64 * 8) / expected.energy**0.5
        assert (np.abs(found / blocks_of(66, 82) - 1) <= 2 * relative)[strong].all()


LATTICE = 800
"""Side of images whose odd columns' noise is 5 % stronger: 98^2 blocks. The strength of vertical differences has a wave
of +-0.024 at 4 across and 0 down, which gives a block 1.6 beside some 8.5 of noise, and the square root of T some
1.6 / 8.5 * 98 = 18, a normal variable of deviation 1. Elsewhere T is that of an exponential or a normal's square: above
40 with a probability below 1e-9."""
FAR = 40


def lattice(rng: np.random.Generator) -> np.ndarray:
    image = rng.normal(size=(3, LATTICE, LATTICE)) * 25
    image[..., 1::2] *= 1.05
    return np.clip(128 + image, 0, 255).round().astype(np.uint8)


def far_above_1(found: Tensor, difference: str) -> set[tuple[int, int]]:
    """Frequencies at which T is, in the fine scale and all channels."""
    t = found[0, list(DIFFERENCES).index(difference)].clone()
    t[:, 0, 0] = 0
    return {(v, u) for v in range(8) for u in range(5) if bool((t[:, v, u] > FAR).all())}


def test_finds_a_planted_lattice(path, rng):
    image = lattice(rng)
    assert far_above_1(coherence(torch.from_numpy(image)[None])[0], "y") == {(0, 4)}
    turned = np.ascontiguousarray(image.swapaxes(1, 2))
    assert far_above_1(coherence(torch.from_numpy(turned)[None])[0], "x") == {(4, 0)}
    plain = np.clip(128 + rng.normal(size=image.shape) * 25, 0, 255).round().astype(np.uint8)
    assert far_above_1(coherence(torch.from_numpy(plain)[None])[0], "y") == set()


def test_a_lattice_is_found_wherever_the_image_is_cut(path, rng):
    image = lattice(rng)
    for k in (1, 3, 6):
        cut = torch.from_numpy(image[:, k:, LATTICE // 100 + k :].copy())
        assert far_above_1(coherence(cut[None])[0], "y") == {(0, 4)}


def test_layouts_give_the_same_bits(path, rng):
    images = torch.from_numpy(noise(rng, 2, 3, 70, 93))
    expected = coherence(images)
    wide = torch.from_numpy(noise(rng, 2, 3, 75, 200))
    wide[:, :, 3:73, 10:196:2] = images
    padded = torch.from_numpy(noise(rng, 2, 4, 73, 99))
    padded[:, 1:, 1:71, 4:97] = images
    layouts = {
        "channels_last": images.contiguous(memory_format=torch.channels_last),
        "columns of a wider one": wide[:, :, 3:73, 10:196:2],
        "a part of a larger one": padded[:, 1:, 1:71, 4:97],
        "a part in channels_last": padded.contiguous(memory_format=torch.channels_last)[:, 1:, 1:71, 4:97],
        "three of channels_last": padded[:, 1:].contiguous(memory_format=torch.channels_last)[..., 1:71, 4:97],
        "transposed": images.transpose(2, 3).contiguous().transpose(2, 3),
    }
    for name, layout in layouts.items():
        assert torch.equal(layout, images), name
        assert torch.equal(coherence(layout), expected), name
    grey = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.equal(coherence(grey), coherence(grey.contiguous()))


def test_an_image_alone_in_a_batch_and_on_more_threads(path, rng):
    images = torch.from_numpy(texture(rng, 5, 3, 66, 131))
    threads = torch.get_num_threads()
    together = coherence(images)
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(coherence(images), together)
            alone = torch.cat([coherence(images[i : i + 1]) for i in (4, 2, 0)])
            assert torch.equal(alone, together[[4, 2, 0]])
    finally:
        torch.set_num_threads(threads)


def test_floating_images_and_the_reference_run_on_pytorch(rng):
    images = torch.from_numpy(noise(rng, 1, 3, 50, 50))
    with nk.backend("reference"):
        assert torch.equal(coherence(images), reference(images))
    floating = images.float() / 255
    assert torch.equal(coherence(floating), reference(floating))
    # Pixels are off by two roundings of 255, a difference by 16 of them and 6 of 2040, beside 0.3 m > 15.
    check(coherence(floating), images, further=(16 * 2 * 255 + 6 * 2040) * UNIT / 15)


@needs.extension
def test_the_op_runs_unasked(rng):
    images = torch.from_numpy(noise(rng, 1, 3, 130, 130))
    found = coherence(images)
    assert torch.equal(found, torch.ops.npr.coherence(images))
    assert not torch.equal(found, reference(images))  # or nothing above tells which one ran
    with nk.backend("cpu"):
        assert torch.equal(coherence(images), found)


@pytest.mark.parametrize("function", [coherence, reference])
def test_refuses_what_are_no_images(function):
    with pytest.raises(TypeError, match="images must be a Tensor, got list"):
        function([])
    with pytest.raises(TypeError, match=r"images must be uint8 or floating point, got torch\.int16"):
        function(torch.zeros(1, 3, 20, 20, dtype=torch.int16))
    for shape in ((3, 20, 20), (1, 1, 20, 20), (1, 4, 20, 20)):
        with pytest.raises(ValueError, match=r"images must be \[N, 3, H, W\], got"):
            function(torch.zeros(shape, dtype=torch.uint8))


@needs.extension
def test_the_op_refuses_what_it_cannot_read():
    for wrong in (torch.zeros(1, 3, 20, 20), *(torch.zeros(*s, 20, 20, dtype=torch.uint8) for s in ((3,), (1, 4)))):
        with pytest.raises(RuntimeError, match=r"images must be uint8 \[N, 3, H, W\]"):
            torch.ops.npr.coherence(wrong)


@needs.extension
@pytest.mark.parametrize("size", [(0, 3, 40, 40), (2, 3, 5, 5), (2, 3, 40, 37)])
def test_opcheck(size, rng):
    torch.library.opcheck(torch.ops.npr.coherence, (torch.from_numpy(noise(rng, *size)),))


def test_the_reference_takes_large_images_in_strips(rng, monkeypatch):
    """Sums of strips are the sums of the image: neighbouring strips share two rows of pixels, and no block."""
    image = torch.from_numpy(noise(rng, 3, 150, 83))
    whole = reference(image[None])
    for size in (1, 80 * 40, 80 * 64):
        monkeypatch.setattr(periodicity, "STRIP", size)
        torch.testing.assert_close(reference(image[None]), whole, rtol=1e-6, atol=1e-9)
