"""Signs of resizing, on pictures whose history is known because it is made here."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from detector.doubt import find_period
from detector.doubt.resampling import SIDE, SMALLEST, STRENGTH
from detector.synth.camera import develop
from detector.synth.scenes import dead_leaves


def photograph(rng, height=320, width=360):
    """As a camera takes it: a procedural scene, demosaiced, with noise."""
    return develop(dead_leaves(height, width, rng), rng).permute(1, 2, 0).numpy()


def resized(pixels, height, width, filter=Image.Resampling.BICUBIC):
    return np.asarray(Image.fromarray(pixels).resize((width, height), filter))


def stored(pixels, quality):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def peak_of(pixels):
    """Of uint8 [H, W, 3]."""
    return find_period(torch.tensor(pixels).permute(2, 0, 1))


def strengths(history, rng, number=9):
    """Of so many photographs with a history: [number], sorted.

    Edges of a scene may fall into a rhythm, and of a hundred photographs about one has a peak as strong as STRENGTH by
    itself. So a test asks for the median: five of nine by chance are one case in 10^8.
    """
    return np.sort([peak_of(history(photograph(rng))).strength for _ in range(number)])


def test_photographs_have_none(rng):
    """Nor JPEGs of them, for all their blocks."""
    assert np.median(strengths(lambda pixels: pixels, rng)) < STRENGTH
    assert np.median(strengths(lambda pixels: stored(pixels, int(rng.integers(70, 100))), rng)) < STRENGTH


@pytest.mark.parametrize("filter", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_enlarged_photographs_have_their_factors_period(filter, rng):
    """The period is the factor, or the other one that its frequency is aliased to; or the mosaic's of two pixels,
    enlarged."""
    pixels = photograph(rng)
    for new in rng.choice([440, 450, 470, 540, 600, 640], 3, replace=False):
        peak = peak_of(resized(pixels, 320, int(new), filter))
        frequency = 360 / new
        harmonics = [abs(k * frequency - round(k * frequency)) for k in (0.5, 1, 1.5, 2, 3)]
        assert peak.strength > STRENGTH
        assert min(abs(1 / peak.period - harmonic) for harmonic in harmonics) < 2 / min(new, SIDE)


def test_rows_and_columns_alike(rng):
    pixels = photograph(rng)
    wide, high = resized(pixels, 320, 470), resized(pixels, 430, 360)
    for image in (wide, high):
        peak = peak_of(image)
        assert peak.strength > STRENGTH
        assert peak_of(image.transpose(1, 0, 2)) == pytest.approx(peak, rel=1e-9)


@pytest.mark.parametrize("factor", [2, 4])
@pytest.mark.parametrize("filter", [Image.Resampling.NEAREST, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
def test_generators_factors_leave_none(factor, filter, rng):
    """What up-samples by 2, 4 and 8 is to be found by the detector, not hidden by this sign."""

    def generated(pixels):
        enlarged = resized(pixels[: 640 // factor], 640, 360 * factor, filter).astype(np.int16)
        return np.clip(enlarged + rng.normal(0, 1, enlarged.shape).round(), 0, 255).astype(np.uint8)

    assert np.median(strengths(generated, rng)) < STRENGTH


def test_only_the_centre_counts(rng):
    """What lies outside the centre changes nothing, so that large photographs cost no more."""
    pixels = rng.integers(0, 256, (SIDE + 96, SIDE + 16, 3), dtype=np.uint8)
    centre = pixels[48:-48, 8:-8]
    assert peak_of(pixels) == peak_of(centre)
    assert find_period(torch.tensor(pixels).permute(2, 0, 1).contiguous()) == peak_of(centre)


def test_small_and_flat_images():
    assert peak_of(np.zeros((SMALLEST - 1, 400, 3), np.uint8)) is None
    assert peak_of(np.zeros((400, SMALLEST - 1, 3), np.uint8)) is None
    assert peak_of(np.full((SMALLEST, SMALLEST + 5, 3), 200, np.uint8)).strength < 2
