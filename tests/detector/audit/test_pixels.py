import colorsys
import io

import numpy as np
import pytest
from PIL import Image

from detector.audit.pixels import SIDE, SMALLEST, centre, measure_pixels


def noise(rng, height=256, width=256, sigma=8.0):
    return 128 + rng.normal(0, sigma, (height, width, 3))


def facts(pixels):
    return measure_pixels(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def combs(found):
    return {2: found.comb_2, 4: found.comb_4, 8: found.comb_8}


def test_without_a_comb_peaks_are_low(rng):
    for size in ((256, 256), (100, 333), (SMALLEST, SMALLEST)):
        values = [combs(facts(noise(rng, *size))) for _ in range(30)]
        for period in (2, 4, 8):
            assert abs(np.mean([value[period] for value in values])) < 2


@pytest.mark.parametrize("period", [2, 4, 8])
@pytest.mark.parametrize("kind", ["columns", "rows", "checks", "energy"])
def test_a_comb_shows_at_its_period(period, kind, rng):
    """An added pattern, or noise that is weaker every so many pixels; at any place of the grid, of odd sizes too.

    Peaks of one image stand out by 5 dB or more, with a standard deviation of 1 where that is least ("energy-8") and of
    2.5 at most; the mean of eight is below 3 dB in one of 10^9 runs."""
    found, plain = (
        {each: np.mean([peaks[each] for peaks in of_eight]) for each in (2, 4, 8)}
        for of_eight in zip(*(with_and_without_comb(period, kind, rng) for _ in range(8)), strict=True)
    )
    assert found[period] > plain[period] + 3
    longer = [each for each in (2, 4, 8) if each > period]
    assert all(found[each] < found[period] for each in longer)


def with_and_without_comb(period, kind, rng):
    height, width = rng.integers(200, 300, 2)
    down, right = rng.integers(0, 8, 2)
    y, x = np.mgrid[down : down + height, right : right + width]
    on = {
        "columns": x % period == 0,
        "rows": y % period == 0,
        "checks": (x // (period // 2) + y // (period // 2)) % 2 == 0,
        "energy": x % period == 0,
    }[kind]
    image = noise(rng, height, width)
    image = np.where(on[..., None], 128 + 0.4 * (image - 128), image) if kind == "energy" else image + 6 * on[..., None]
    return combs(facts(image)), combs(facts(noise(rng, height, width)))


def test_jpeg_leaves_a_comb_of_eight(rng):
    image = Image.fromarray(np.clip(noise(rng, sigma=20), 0, 255).astype(np.uint8))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=30)
    assert facts(np.asarray(Image.open(file))).comb_8 > facts(np.asarray(image)).comb_8 + 3


def test_noise_is_its_standard_deviation(rng):
    for sigma in (2.0, 10.0):
        grey = 128 + rng.normal(0, sigma, (256, 256, 1)) + np.linspace(-40, 40, 256)[:, None]
        assert facts(np.repeat(grey, 3, axis=2)).noise == pytest.approx(sigma, rel=0.1)
    assert facts(np.full((64, 64, 3), 9)).noise == 0


def test_colours_by_their_definitions(rng):
    pixels = rng.integers(0, 256, (21, 30, 3))
    pixels[:3] = 0
    pixels[3] = (255, 3, 3)
    found = facts(pixels)
    colours = pixels.reshape(-1, 3) / 255
    assert found.saturation == pytest.approx(np.mean([colorsys.rgb_to_hsv(*colour)[1] for colour in colours]), abs=1e-5)
    luma = pixels @ [0.299, 0.587, 0.114]
    assert found.brightness == pytest.approx(luma.mean(), abs=1e-3)
    assert found.contrast == pytest.approx(luma.std(), abs=1e-3)
    assert found.clipped == pytest.approx(np.isin(pixels, (0, 255)).mean())


def test_subsampling_takes_detail_from_chroma(rng):
    image = Image.fromarray(np.clip(noise(rng, sigma=30), 0, 255).astype(np.uint8))
    detail = []
    for subsampling in ("4:4:4", "4:2:0"):
        file = io.BytesIO()
        image.save(file, "JPEG", quality=95, subsampling=subsampling)
        detail.append(facts(np.asarray(Image.open(file))).chroma_detail)
    assert detail[1] < 0.5 * detail[0]
    grey = np.repeat(rng.integers(0, 256, (50, 50, 1)), 3, axis=2)
    assert facts(grey).chroma_detail == pytest.approx(0, abs=1e-6)
    assert facts(np.full((5, 5, 3), 9)).chroma_detail is None


@pytest.mark.parametrize("size", [(2, 2), (2, 500), (SMALLEST - 1, 400), (400, SMALLEST - 1)])
def test_small_images(size, rng):
    found = facts(rng.integers(0, 256, (*size, 3)))
    assert found.comb_2 is found.comb_4 is found.comb_8 is found.noise is None
    assert 0 < found.saturation < 1


def test_the_centre(rng):
    for size in ((2, 3), (300, 41), (1000, 999), (SMALLEST, 257)):
        part = centre(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        for kept, whole in zip(part.shape, size, strict=False):
            assert kept <= min(whole, SIDE)
            assert kept == whole if whole < SMALLEST else kept > whole - 8 or kept == SIDE
            assert whole < SMALLEST or kept % 8 == 0
