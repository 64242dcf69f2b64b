"""Degradations against SciPy, Pillow and OpenCV themselves."""

import io
import platform

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from detector.data import degradations
from detector.data.degradations import gaussian_blur, gaussian_noise, jpeg, resize, webp

#: Compilers for other processors fuse SciPy's multiplications and additions, which moves sums across whole numbers.
BLUR_TOLERANCE = 0 if platform.machine() in ("x86_64", "AMD64") else 1


FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "area": Image.Resampling.BOX,
}


def to_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_pixels(image):
    return image.permute(1, 2, 0).numpy()


def through_pillow(pixels, format, **settings):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **settings)
    return np.array(Image.open(file))


@pytest.fixture(params=["noise", "steps", "flat", "bright"])
def pixels(request, rng):
    """Of odd sizes and with the flat areas on which rounding shows."""
    height, width = rng.integers(20, 60, 2)
    match request.param:
        case "noise":
            return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        case "steps":
            steps = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
            return np.ascontiguousarray(steps.repeat(8, 0).repeat(8, 1)[:height, :width])
        case "flat":
            return np.full((height, width, 3), rng.integers(0, 256, 3), dtype=np.uint8)
        case _:
            return np.full((height, width, 3), 255, dtype=np.uint8)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.2, 1.0, 3.0, 7.5, None])
def test_blur_is_scipys(pixels, rng, sigma):
    sigma = rng.uniform(0, 3) if sigma is None else sigma
    expected = np.stack([ndimage.gaussian_filter(pixels[:, :, c], sigma=sigma) for c in range(3)], axis=2)
    got = to_pixels(gaussian_blur(to_tensor(pixels), sigma))
    assert np.abs(got.astype(int) - expected).max() <= BLUR_TOLERANCE


@pytest.mark.parametrize("shape", [(2, 2), (1, 40), (40, 1), (5, 3)])
def test_blur_wider_than_the_image(rng, shape):
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    expected = np.stack([ndimage.gaussian_filter(pixels[:, :, c], sigma=3) for c in range(3)], axis=2)
    got = to_pixels(gaussian_blur(to_tensor(pixels), 3))
    assert np.abs(got.astype(int) - expected).max() <= BLUR_TOLERANCE


@pytest.mark.parametrize("quality", [1, 30, 65, 95, 100])
def test_jpeg_is_pillows(pixels, quality):
    expected = through_pillow(pixels, "jpeg", quality=quality)
    assert np.array_equal(to_pixels(jpeg(to_tensor(pixels), quality, "pillow")), expected)


@pytest.mark.parametrize(("subsampling", "pillows"), [("444", 0), ("422", 1), ("420", 2)])
def test_chroma_of_jpeg_is_pillows(pixels, subsampling, pillows):
    expected = through_pillow(pixels, "jpeg", quality=80, subsampling=pillows)
    assert np.array_equal(to_pixels(jpeg(to_tensor(pixels), 80, subsampling=subsampling)), expected)


@pytest.mark.parametrize(("subsampling", "opencvs"), [("444", 0x111111), ("422", 0x211111), ("420", 0x221111)])
def test_chroma_of_jpeg_is_opencvs(pixels, subsampling, opencvs):
    cv2 = pytest.importorskip("cv2")
    settings = [cv2.IMWRITE_JPEG_QUALITY, 80, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, opencvs]
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)
    expected = cv2.cvtColor(cv2.imdecode(encoded, 1), cv2.COLOR_BGR2RGB)
    assert np.array_equal(to_pixels(jpeg(to_tensor(pixels), 80, "opencv", subsampling)), expected)


@pytest.mark.parametrize("quality", [1, 50, 100])
def test_webp_is_pillows(pixels, quality):
    expected = through_pillow(pixels, "webp", quality=quality)
    assert np.array_equal(to_pixels(webp(to_tensor(pixels), quality)), expected)


def test_images_too_large_for_a_codec():
    with pytest.raises(ValueError, match=r"image must have at most 65500 pixels a side, got \[3, 2, 65501\]"):
        jpeg(torch.zeros(3, 2, 65501, dtype=torch.uint8), 80)
    assert jpeg(torch.zeros(3, 1, 65500, dtype=torch.uint8), 80).shape == (3, 1, 65500)
    with pytest.raises(ValueError, match=r"image must have at most 16383 pixels a side, got \[3, 16384, 2\]"):
        webp(torch.zeros(3, 16384, 2, dtype=torch.uint8), 80)
    assert webp(torch.zeros(3, 16383, 1, dtype=torch.uint8), 80).shape == (3, 16383, 1)


@pytest.mark.parametrize("quality", [1, 30, 65, 95, 100])
def test_jpeg_is_opencvs(pixels, quality):
    cv2 = pytest.importorskip("cv2")
    blue_first = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", blue_first, [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    expected = cv2.cvtColor(cv2.imdecode(encoded, 1), cv2.COLOR_BGR2RGB)
    assert np.array_equal(to_pixels(jpeg(to_tensor(pixels), quality, "opencv")), expected)


def test_no_encoder_takes_anothers_place(pixels, monkeypatch):
    monkeypatch.setattr(degradations.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"encoder: opencv is not installed; pip install 'npr-kernels\[cv\]'"):
        jpeg(to_tensor(pixels), 50, "opencv")
    monkeypatch.setattr(degradations.features, "check", lambda name: name != "webp")
    with pytest.raises(ValueError, match="webp: this Pillow was built without it"):
        webp(to_tensor(pixels), 50)


@pytest.mark.parametrize("filter", FILTERS)
def test_resize_is_pillows(pixels, filter):
    height, width = pixels.shape[:2]
    for factor in (0.5, 0.7, 1.3, 2):
        rows = Image.fromarray(pixels).resize((round(width * factor), height), FILTERS[filter])
        expected = np.array(rows.resize((rows.width, round(height * factor)), FILTERS[filter]))
        assert np.array_equal(to_pixels(resize(to_tensor(pixels), factor, filter)), expected)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("factor", [0.5, 2])
def test_resize_of_images_that_are_not_tall_is_one_call_of_pillow(rng, filter, factor):
    height, width = (2 * int(side) for side in sorted(rng.integers(10, 40, 2)))
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = int(width * factor), int(height * factor)
    expected = np.array(Image.fromarray(pixels).resize(size, FILTERS[filter]))
    assert np.array_equal(to_pixels(resize(to_tensor(pixels), factor, filter)), expected)


def test_resize_is_bicubic(pixels):
    assert resize(to_tensor(pixels), 0.7).equal(resize(to_tensor(pixels), 0.7, "bicubic"))
    assert resize(to_tensor(pixels), 1).equal(to_tensor(pixels))
    assert resize(to_tensor(pixels), 0.001).shape == (3, 2, 2)


def test_noise(rng, seed):
    image = torch.full((3, 200, 201), 100, dtype=torch.uint8)
    noise = gaussian_noise(image, 8, torch.Generator().manual_seed(seed)).double() - 100
    assert abs(noise.mean()) < 0.1
    assert noise.std().item() == pytest.approx((64 + 1 / 12) ** 0.5, rel=0.02)  # a uniform error from rounding
    correlation = torch.corrcoef(noise.flatten(1))
    assert (correlation - torch.eye(3)).abs().max() < 0.03
    assert gaussian_noise(image, 8, torch.Generator().manual_seed(seed)).sub(100).equal(noise.to(torch.uint8))
    bright = gaussian_noise(torch.full((3, 50, 50), 255, dtype=torch.uint8), 30, torch.Generator().manual_seed(seed))
    assert (bright == 255).float().mean() > 0.4  # clipped, not wrapped around
    assert gaussian_noise(image, 0, torch.Generator()).equal(image)


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda image: gaussian_blur(image.float(), 1), TypeError, "image must be uint8, got torch.float32"),
        (lambda image: gaussian_blur(image[:1], 1), ValueError, r"image must be \[3, H, W\] and not empty"),
        (lambda image: gaussian_blur(image, float("nan")), ValueError, "sigma must be finite"),
        (lambda image: jpeg(image, 101), ValueError, "quality must be in 1..100, got 101"),
        (lambda image: jpeg(image, 50, "magick"), ValueError, "encoder must be of opencv, pillow"),
        (lambda image: jpeg(image, 50, subsampling="411"), ValueError, "subsampling must be of 420, 422, 444, got"),
        (lambda image: webp(image, 0), ValueError, "quality must be in 1..100, got 0"),
        (lambda image: resize(image, 2, "cubic"), ValueError, "filter must be of nearest, bilinear, bicubic, lan"),
        (lambda image: resize(image.numpy(), 2), TypeError, "image must be a Tensor, got ndarray"),
        (lambda image: resize(image, 0), ValueError, "factor must be positive, got 0"),
        (lambda image: resize(image, "2"), TypeError, "factor must be a number, got str"),
        (lambda image: gaussian_noise(image, -1, torch.Generator()), ValueError, "sigma must be finite and not neg"),
    ],
)
def test_wrong_arguments(call, kind, match):
    with pytest.raises(kind, match=match):
        call(torch.zeros(3, 8, 8, dtype=torch.uint8))
