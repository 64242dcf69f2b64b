"""Procedural photographs: scenes with a power-law of sizes, and a camera whose steps do what they say."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import decode
from detector.synth import camera
from detector.synth.finishing import blend_region, compress
from detector.synth.scenes import dead_leaves


def test_scene():
    scene = dead_leaves(96, 128, np.random.default_rng(0))
    assert scene.shape == (96, 128, 3)
    assert scene.dtype == np.float32
    assert np.isfinite(scene).all()
    assert (scene >= 0).all()
    assert np.array_equal(scene, dead_leaves(96, 128, np.random.default_rng(0)))
    assert not np.array_equal(scene, dead_leaves(96, 128, np.random.default_rng(1)))


def test_scenes_have_the_spectrum_of_natural_images():
    """Power falls as about f^-2 (Field 1987); white noise would give 0 and a blurred picture -4 or less."""
    power = np.zeros((256, 256))
    for seed in range(4):
        luminance = np.log(dead_leaves(256, 256, np.random.default_rng(seed)).mean(2) + 0.01)
        window = np.outer(np.hanning(256), np.hanning(256))
        power += np.abs(np.fft.fft2((luminance - luminance.mean()) * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.fftfreq(256)[None])
    edges = np.geomspace(0.02, 0.3, 10)
    rings = [power[(frequency >= low) & (frequency < high)].mean() for low, high in itertools.pairwise(edges)]
    slope = np.polyfit(np.log(np.sqrt(edges[1:] * edges[:-1])), np.log(rings), 1)[0]
    assert -3.2 < slope < -1.2


def test_photograph():
    scene = dead_leaves(64, 96, np.random.default_rng(3))
    file = camera.photograph(scene, np.random.default_rng(5))
    assert file == camera.photograph(scene, np.random.default_rng(5))
    assert file != camera.photograph(scene, np.random.default_rng(6))
    assert Image.open(io.BytesIO(file)).format == "JPEG"
    image = decode(file)
    assert image.shape == (3, 64, 96)
    # The scene is still there: bright where it is bright.
    correlation = np.corrcoef(np.cbrt(scene.mean(2)).ravel(), image.double().mean(0).numpy().ravel())[0, 1]
    assert correlation > 0.8


def test_a_black_scene_is_photographed():
    assert decode(camera.photograph(np.zeros((16, 16, 3), np.float32), np.random.default_rng(0))).shape == (3, 16, 16)


def test_mosaic_is_rggb():
    planes = torch.rand(3, 6, 8)
    raw = camera._mosaic(planes)
    assert torch.equal(raw[::2, ::2], planes[0, ::2, ::2])
    assert torch.equal(raw[::2, 1::2], planes[1, ::2, 1::2])
    assert torch.equal(raw[1::2, ::2], planes[1, 1::2, ::2])
    assert torch.equal(raw[1::2, 1::2], planes[2, 1::2, 1::2])


def test_demosaic_keeps_what_was_measured_and_is_exact_on_planes():
    rgb = torch.rand(3, 12, 10)
    result = camera._demosaic(camera._mosaic(rgb))
    assert torch.equal(camera._mosaic(result), camera._mosaic(rgb))
    # The filters reproduce any picture that is linear in x and y, each channel with an offset of its own.
    y, x = torch.meshgrid(torch.arange(12), torch.arange(10), indexing="ij")
    ramp = 0.2 + 0.02 * y + 0.03 * x
    colours = torch.stack([ramp, ramp + 0.05, ramp - 0.1])
    inner = (slice(None), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(camera._demosaic(camera._mosaic(colours))[inner], colours[inner])


def test_noise_grows_as_the_square_root_of_light():
    rng = np.random.default_rng()
    full_well = 4000.0
    for level in (0.05, 0.2, 0.6):
        raw = camera._expose(torch.full((400, 400), level), full_well, rng)
        assert float(raw.mean()) == pytest.approx(level, rel=0.01)
        expected = np.sqrt(level * full_well + 9 + (full_well / 4095) ** 2 / 12) / full_well
        assert float(raw.std()) == pytest.approx(expected, rel=0.02)


def test_tone_curve_is_srgb():
    linear = torch.linspace(0, 1, 1001)[None].repeat(3, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    assert np.abs(camera._tone(linear, 0.0).numpy() - 255 * encoded).max() <= 0.501
    curved = camera._tone(linear, 0.5)[0].int()
    assert (curved.diff() >= 0).all()
    assert (int(curved[0]), int(curved[-1])) == (0, 255)


def test_blending_keeps_the_rim_and_replaces_the_centre():
    photo, generated = torch.zeros(3, 64, 80, dtype=torch.uint8), torch.full((3, 64, 80), 200, dtype=torch.uint8)
    for seed in range(20):
        blended = blend_region(photo, generated, np.random.default_rng(seed))
        assert blended.dtype == torch.uint8
        assert (blended[:, 32, 40] > 0).all()
        assert blended[:, [0, 0, -1, -1], [0, -1, 0, -1]].sum() == 0
        assert 0.1 < (blended == 200).float().mean() < 0.6
    same = torch.randint(256, (3, 32, 32), dtype=torch.uint8)
    assert torch.equal(blend_region(same, same, np.random.default_rng(0)), same)


def test_compress_is_pillows_jpeg():
    image = torch.randint(256, (3, 24, 33), dtype=torch.uint8)
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=60)
    assert np.array_equal(compress(image, 60).permute(1, 2, 0), np.asarray(Image.open(file)))
