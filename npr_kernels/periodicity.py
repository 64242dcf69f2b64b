"""How periodic the strength of an image's finest detail is: the lattice that up-sampling leaves all over a picture::

    c = coherence(images)       # uint8 [N, 3, H, W] -> float32 [N, 3, 8, 3, 8, 5]

A decoder computes neighbouring pixels by different taps, so its detail is stronger on some rows and columns than on
those between, by a few percent, everywhere and in the same phase. No small window shows that. The whole picture does:
interpolated signals are cyclostationary (Gallagher, "Detection of linear and cubic interpolation in JPEG compressed
images", CRV 2005; Mahdian and Saic, "Blind authentication using periodic properties of interpolation", IEEE TIFS 2008).

Of each channel, integer differences r of neighbours (:data:`DIFFERENCES`) are taken, and of their strength three
scales::

    fine    log(|r| + 0.3 (m + 0.5)),   m the mean of |r| over 16x16 positions: every texture weighs the same
    coarse  log(|r| + 20):              strong detail counts, which is what compression leaves
    edges   1 where |r| > 20.5, else 0: nothing else does

Blocks of 8x8 positions have a Fourier transform F_b(v, u) of it. Where the lattice is one and the same in all blocks,
their phases agree, and the coherence ::

    T(v, u) = |sum_b F_b(v, u)|^2 / sum_b |F_b(v, u)|^2

is far above 1, at most the number of blocks; where blocks have nothing in common, it is about 1: phases are random, and
the sum's square is the sum of squares. T needs no calibration and no learning, and cutting or shifting the image
changes phases alone.

On the CPU uint8 images go through the op ``npr::coherence``, csrc/cpu/periodicity.cpp: T with logarithms right to
:data:`LOGARITHM`, the same bits for an image in any batch, layout and number of threads. Everything else, and where the
op is not there, runs on :func:`reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from npr_kernels import backends

BLOCK = 8
"""Side of the blocks: the periods 8, 4, 8/3 and 2 of pixels are seen."""

TILE = 16
"""Side of what the fine scale takes its mean over; only whole tiles are read."""

SCALES = ("fine", "coarse", "edges")

FLOOR, OFFSET = 0.3, 0.5
"""Of the fine scale: log(|r| + FLOOR (m + OFFSET))."""

COARSE = 20.0
"""Of the coarse scale: log(|r| + COARSE)."""

EDGE = 20.5
"""Of the edges: |r| > EDGE. Between two integers, so that images in floating point have the same edges."""

DIFFERENCES: dict[str, tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]] = {
    "x": ((0, 0, 0), (0, -1, 1), (0, 0, 0)),
    "y": ((0, 0, 0), (0, -1, 0), (0, 1, 0)),
    "xy": ((1, -1, 0), (-1, 1, 0), (0, 0, 0)),
    "xx": ((0, 0, 0), (1, -2, 1), (0, 0, 0)),
    "yy": ((0, 1, 0), (0, -2, 0), (0, 1, 0)),
    "laplace": ((0, -1, 0), (-1, 4, -1), (0, -1, 0)),
    "y-smooth": ((0, 0, 0), (-1, -2, -1), (1, 2, 1)),
    "x-smooth": ((0, -1, 1), (0, -2, 2), (0, -1, 1)),
}
"""Taps on rows and columns -1..1 around a pixel. Each sums to zero, and is an integer of at most 8 * 255."""

SHAPE = (len(SCALES), len(DIFFERENCES), 3, BLOCK, BLOCK // 2 + 1)
"""Of an image's coherence: scale, difference, channel, and frequency down and across, as torch.fft.rfft2 has them."""


LOGARITHM = 1e-6
"""Absolute error of the op's logarithms, at most."""


def blocks_of(height: int, width: int) -> int:
    """How many blocks an image has: differences leave out its rim, and what fills no tile is left out too."""
    return (max(height - 2, 0) // TILE) * (max(width - 2, 0) // TILE) * (TILE // BLOCK) ** 2


def coherence(images: Tensor) -> Tensor:
    """The coherence of blocks' Fourier transforms of the strength of detail.

    Args:
        images: uint8, or floating in [0, 1], [N, 3, H, W].

    Returns:
        float32 [N, 3, 8, 3, 8, 5], see :data:`SHAPE`: from 0 to the number of blocks. Of the frequency 0 it tells
        nothing. Where there is no energy to compare, in flat images and in those that hold no tile, it is 1.

    Raises:
        TypeError, ValueError: images of another type or shape.

    Example:
        An image that was enlarged twice by repeating its pixels: of 900 blocks, nearly all have the period 2.

        >>> import torch
        >>> from npr_kernels.periodicity import coherence
        >>> small = torch.randint(0, 256, (1, 3, 128, 128), dtype=torch.uint8)
        >>> enlarged = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        >>> fine, difference_across, red, period_2_across = 0, 0, 0, (0, 4)
        >>> coherence(enlarged)[0, fine, difference_across, red][period_2_across] > 500
        tensor(True)
    """
    _check(images)
    if images.dtype == torch.uint8 and backends.cpu_kernels_run(images.device):
        result: Tensor = torch.ops.npr.coherence(images)
        return result
    return reference(images)


def reference(images: Tensor) -> Tensor:
    """The same in plain PyTorch, on any device: the specification."""
    _check(images)
    return torch.stack([_of_image(image) for image in images]) if len(images) else images.new_zeros(0, *SHAPE).float()


def _of_image(image: Tensor) -> Tensor:
    """[3, H, W] -> SHAPE."""
    pixels = image.float() if image.dtype == torch.uint8 else image.float() * 255
    rows, columns = (max(side - 2, 0) // TILE * TILE for side in pixels.shape[1:])
    if rows == 0 or columns == 0:
        return pixels.new_ones(SHAPE)
    height = max(TILE, STRIP // columns // TILE * TILE)
    found = []
    for taps in DIFFERENCES.values():
        sums = [
            _sums(_difference(pixels[:, top : min(top + height, rows) + 2], taps)[:, :, :columns].abs())
            for top in range(0, rows, height)
        ]
        together, energy = (torch.stack(each).sum(dim=0) for each in zip(*sums, strict=True))
        flat = energy <= ROUNDING * (rows // BLOCK) * (columns // BLOCK)
        found.append(torch.where(flat, 1.0, _power(together) / torch.where(flat, 1.0, energy)).float())
    return torch.stack(found, dim=1)


def _difference(pixels: Tensor, taps: tuple[tuple[int, int, int], ...]) -> Tensor:
    """[3, H, W] -> [3, H - 2, W - 2]."""
    height, width = pixels.shape[1:]
    total = pixels.new_zeros(len(pixels), max(height - 2, 0), max(width - 2, 0))
    for row, line in enumerate(taps):
        for column, tap in enumerate(line):
            if tap:
                total = total + tap * pixels[:, row : row + total.shape[1], column : column + total.shape[2]]
    return total


def _sums(strength: Tensor) -> tuple[Tensor, Tensor]:
    """|r| [3, H, W], of whole tiles -> blocks' spectra, complex128, and their power, float64, added up: [3, 3, 8, 5]
    each, the scale first."""
    tiles = strength.unflatten(2, (-1, TILE)).unflatten(1, (-1, TILE))
    mean = tiles.mean(dim=(2, 4), keepdim=True)
    fine = (tiles + FLOOR * (mean + OFFSET)).log().flatten(3).flatten(1, 2)
    coarse = (strength + COARSE).log()
    edges = (strength > EDGE).float()
    scales = torch.stack([fine, coarse, edges])
    blocks = scales.unflatten(3, (-1, BLOCK)).unflatten(2, (-1, BLOCK)).transpose(3, 4)
    spectra = torch.fft.rfft2(blocks)
    along = (2, 3)  # from block to block
    return spectra.sum(dim=along, dtype=torch.complex128), _power(spectra).sum(dim=along, dtype=torch.float64)


STRIP = 2**20
"""Positions that the reference takes at once, or one row of tiles where that is more: some 150 bytes for each."""


ROUNDING = 1e-6
"""Energy of a block that is rounding's: logarithms of up to 8 are right to some 1e-7 of themselves."""


def _power(spectra: Tensor) -> Tensor:
    return spectra.real.square() + spectra.imag.square()


def _check(images: Tensor) -> None:
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [N, 3, H, W], got {list(images.shape)}")
