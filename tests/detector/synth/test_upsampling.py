"""upsample: each operator against its definition."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from detector.synth.upsampling import UPSAMPLERS, upsample


@pytest.fixture
def z():
    return torch.randn(2, 3, 5, 7, dtype=torch.float64)


@pytest.fixture
def switches():
    return torch.randint(4, (2, 5, 7))


def test_shapes(z, switches):
    for kind in UPSAMPLERS:
        expected = z.shape if kind == "pixelshuffle" else (2, 3, 10, 14)
        assert upsample(z, kind, switches).shape == expected


def test_nearest(z, switches):
    assert np.array_equal(upsample(z, "nearest", switches), z.numpy().repeat(2, 2).repeat(2, 3))


def test_zero_stuffing(z, switches):
    expected = np.zeros((2, 3, 10, 14))
    expected[:, :, ::2, ::2] = z
    assert np.array_equal(upsample(z, "transposed", switches), expected)


def test_unpooling(z, switches):
    expected = np.zeros((2, 3, 10, 14))
    for n, i, j in np.ndindex(*switches.shape):
        phase = int(switches[n, i, j])
        expected[n, :, 2 * i + phase // 2, 2 * j + phase % 2] = z[n, :, i, j]
    assert np.array_equal(upsample(z, "unpool", switches), expected)


def test_bilinear_away_from_the_edges(z, switches):
    # Half-pixel centres: the fine pixel nearer to a coarse one weighs it three quarters.
    y = upsample(z, "bilinear", switches)
    a, b, c, d = (z[..., i : i + 4, j : j + 6] for i in (0, 1) for j in (0, 1))
    expected = (9 * a + 3 * b + 3 * c + d) / 16
    torch.testing.assert_close(y[..., 1:-1:2, 1:-1:2], expected)


def test_fir_is_the_binomial_blur_of_zero_stuffing(z, switches):
    stuffed = upsample(z, "transposed", switches).numpy()
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
    for n, c in np.ndindex(2, 3):
        expected = ndimage.correlate(stuffed[n, c], taps, mode="constant")
        np.testing.assert_allclose(upsample(z, "fir", switches)[n, c], expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic", "fir"])
def test_interpolators_keep_a_constant(kind, switches):
    y = upsample(torch.full((2, 1, 5, 7), 0.7, dtype=torch.float64), kind, switches)
    torch.testing.assert_close(y[..., 2:-2, 2:-2], torch.full_like(y[..., 2:-2, 2:-2], 0.7))


@pytest.mark.parametrize(("kind", "image_left"), [("nearest", 0.2), ("fir", 0.12), ("lowpass", 0.01)])
def test_images_of_the_spectrum_fall_with_the_quality_of_the_filter(kind, image_left):
    """A wave of frequency f comes back at 1/2 - f too (the image), less so the better the filter."""
    n, f = 64, 5
    wave = torch.cos(2 * np.pi * f * torch.arange(n, dtype=torch.float64) / n)
    y = upsample(wave.expand(1, 1, n, n), kind, torch.zeros(1, n, n, dtype=torch.int64))[0, 0, n]
    spectrum = np.abs(np.fft.rfft(y.numpy()))
    assert spectrum.argmax() == f
    assert spectrum[n - f] / spectrum[f] < image_left
