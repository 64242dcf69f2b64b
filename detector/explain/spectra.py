"""Spectra of what a median filter takes away: up-sampling leaves peaks in them.

Source: Wang et al., CVPR 2020 (arXiv 1912.11035), Section 5 and Figure 7: the average spectra of high-pass filtered
reals and fakes of each generator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter
from torch import Tensor

from detector.console import Meter
from detector.data import FAKE, REAL, Collection, ImageError, decode


@dataclass(frozen=True)
class MeanSpectrum:
    """The mean spectrum of a set of images.

    Attributes:
        magnitude: float64 [side, side], see :func:`spectrum`.
        images: how many it is the mean of.
    """

    magnitude: np.ndarray
    images: int


def high_pass(image: Tensor) -> np.ndarray:
    """The image minus its median blur: what a 3x3 median, with replicated borders, takes away.

    Args:
        image: uint8 [3, H, W].

    Returns:
        float32 [H, W, 3], grey levels in -255..255.
    """
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    median = np.asarray(Image.fromarray(pixels).filter(ImageFilter.MedianFilter(3)))
    return pixels.astype(np.float32) - median


def spectrum(image: Tensor, side: int) -> np.ndarray:
    """The magnitude of the high-passed image's Fourier transform.

    The mean over the channels and over the square cells that the image is divided into (what is left at the right and
    bottom is not used), each transformed by itself. No window is applied: what is left of an image by a high-pass
    ends anywhere alike.

    Args:
        image: uint8 [3, H, W], H and W at least `side`.
        side: of the cells, in pixels.

    Returns:
        float64 [side, side], frequency 0 at [side // 2, side // 2], in grey levels: a white residual of standard
        deviation s gives about 0.89 s everywhere.
    """
    height, width = image.shape[1:]
    if side < 2:
        raise ValueError(f"side must be at least 2, got {side}")
    if min(height, width) < side:
        raise ValueError(f"image must have sides of at least {side} pixels, got {width}x{height}")
    total = np.zeros((side, side))
    cells = 0
    residual = high_pass(image)
    for top in range(0, height - side + 1, side):
        for left in range(0, width - side + 1, side):
            cell = residual[top : top + side, left : left + side]
            total += np.abs(np.fft.fft2(cell.astype(np.float64), axes=(0, 1))).sum(axis=2)
            cells += 1
    return np.fft.fftshift(total) / (3 * cells * side)


def mean_spectra(
    collection: Collection, side: int, *, verbose: bool = False
) -> tuple[dict[str, dict[int, MeanSpectrum]], list[str]]:
    """Mean spectra of the reals and of the fakes of every generator.

    Args:
        collection: the images. Small ones and those that cannot be decoded do not count.
        side: of the spectra, in pixels.
        verbose: show progress.

    Returns:
        By generator and label (0 real, 1 fake), those that there are; and a sentence for every image that was left out.
    """
    totals: dict[tuple[str, int], np.ndarray] = {}
    counts: dict[tuple[str, int], int] = {}
    skipped = []
    with Meter("spectra", len(collection), verbose=verbose) as meter:
        for sample in collection.samples:
            meter.advance(1)
            try:
                image = decode(sample.path)
            except ImageError as error:
                skipped.append(str(error))
                continue
            if min(image.shape[1:]) < side:
                skipped.append(f"{sample.path}: is {image.shape[2]}x{image.shape[1]} pixels, less than {side}")
                continue
            key = sample.generator, sample.label
            totals[key] = totals.get(key, 0) + spectrum(image, side)
            counts[key] = counts.get(key, 0) + 1
    spectra: dict[str, dict[int, MeanSpectrum]] = {}
    for generator in collection.generators:
        for label in (REAL, FAKE):
            if (generator, label) in totals:
                count = counts[generator, label]
                mean = MeanSpectrum(totals[generator, label] / count, count)
                spectra.setdefault(generator, {})[label] = mean
    return spectra, skipped


def radial_profile(magnitude: np.ndarray) -> np.ndarray:
    """The mean over all directions, by frequency.

    Args:
        magnitude: [side, side], frequency 0 at [side // 2, side // 2].

    Returns:
        float64 [side // 2 + 1]: entry i is the mean over the frequencies that round to i cycles in `side` pixels.
    """
    side = len(magnitude)
    cycles = np.arange(side) - side // 2
    radius = np.rint(np.hypot(cycles[:, None], cycles)).astype(int).ravel()
    sums, counts = np.bincount(radius, magnitude.ravel()), np.bincount(radius)
    return (sums / counts)[: side // 2 + 1]
