"""Spectra against SciPy's median and a Fourier transform written out."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from detector.data import find_images
from detector.explain import high_pass, mean_spectra, radial_profile, spectrum


def random_image(rng, height, width):
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


def test_high_pass_is_the_image_minus_its_median(rng):
    image = random_image(rng, 19, 24)
    median = np.stack([ndimage.median_filter(channel, size=3, mode="nearest") for channel in image.numpy()], axis=2)
    expected = image.permute(1, 2, 0).numpy().astype(int) - median
    assert np.array_equal(high_pass(image), expected)


@pytest.mark.parametrize("side", [8, 9])
def test_spectrum_is_the_mean_of_the_cells_transforms(rng, side):
    image = random_image(rng, 2 * side + 3, 3 * side)
    residual = high_pass(image).astype(float)
    frequencies = np.arange(side) - side // 2
    waves = np.exp(-2j * np.pi * np.outer(frequencies, np.arange(side)) / side)
    total = np.zeros((side, side))
    for row in range(2):
        for column in range(3):
            cell = residual[row * side : (row + 1) * side, column * side : (column + 1) * side]
            for channel in range(3):
                total += np.abs(waves @ cell[:, :, channel] @ waves.T)
    np.testing.assert_allclose(spectrum(image, side), total / (18 * side), rtol=1e-9, atol=1e-9)


def test_unit_of_the_spectrum(rng, monkeypatch):
    noise = rng.normal(0, 3, (128, 128, 3))
    monkeypatch.setattr("detector.explain.spectra.high_pass", lambda image: noise)
    assert spectrum(torch.zeros(3, 128, 128, dtype=torch.uint8), 32).mean() == pytest.approx(0.886 * 3, rel=0.02)


def test_stripes_are_a_peak_at_their_frequency():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    image[:, :, ::4] = 200  # a quarter of a cycle a pixel and its harmonics
    magnitude = spectrum(image, 32)
    assert sorted(np.argwhere(magnitude > 0.5 * magnitude.max()).tolist()) == [[16, 0], [16, 8], [16, 16], [16, 24]]


@pytest.mark.parametrize("side", [7, 16])
def test_radial_profile(rng, side):
    magnitude = rng.random((side, side))
    wanted = [[] for _ in range(side // 2 + 1)]
    for row in range(side):
        for column in range(side):
            radius = round(float(np.hypot(row - side // 2, column - side // 2)))
            if radius < len(wanted):
                wanted[radius].append(magnitude[row, column])
    np.testing.assert_allclose(radial_profile(magnitude), [np.mean(values) for values in wanted])


def test_means_by_generator(tmp_path, rng):
    images = {}
    for path, size in {
        "a/0_real/1": 40,
        "a/0_real/2": 50,
        "a/1_fake/1": 40,
        "b/1_fake/1": 33,
        "b/1_fake/2": 20,
    }.items():
        pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / f"{path}.png")
        images[path] = torch.from_numpy(pixels).permute(2, 0, 1)
    (tmp_path / "a/1_fake/broken.png").write_bytes(b"")
    spectra, skipped = mean_spectra(find_images(tmp_path), 32)
    assert {name: {label: mean.images for label, mean in row.items()} for name, row in spectra.items()} == {
        "a": {0: 2, 1: 1}, "b": {1: 1},
    }  # fmt: skip
    expected = (spectrum(images["a/0_real/1"], 32) + spectrum(images["a/0_real/2"], 32)) / 2
    np.testing.assert_allclose(spectra["a"][0].magnitude, expected)
    assert [reason.removeprefix(f"{tmp_path}/") for reason in skipped] == [
        "a/1_fake/broken.png: is empty", "b/1_fake/2.png: is 20x20 pixels, less than 32",
    ]  # fmt: skip


def test_wrong_sides():
    image = torch.zeros(3, 10, 20, dtype=torch.uint8)
    with pytest.raises(ValueError, match="image must have sides of at least 16 pixels, got 20x10"):
        spectrum(image, 16)
    with pytest.raises(ValueError, match="side must be at least 2, got 1"):
        spectrum(image, 1)
