"""Degradations against SciPy, Pillow and OpenCV themselves, and what is drawn of them."""

import io
import platform

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from detector.data import augment
from detector.data.augment import Augmentation, Degradation, gaussian_blur, gaussian_noise, jpeg, resize

#: Compilers for other processors fuse SciPy's multiplications and additions, which moves sums across whole numbers.
BLUR_TOLERANCE = 0 if platform.machine() in ("x86_64", "AMD64") else 1


def to_tensor(pixels):
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_pixels(image):
    return image.permute(1, 2, 0).numpy()


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
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="jpeg", quality=quality)
    assert np.array_equal(to_pixels(jpeg(to_tensor(pixels), quality, "pillow")), np.array(Image.open(file)))


@pytest.mark.parametrize("quality", [1, 30, 65, 95, 100])
def test_jpeg_is_opencvs(pixels, quality):
    cv2 = pytest.importorskip("cv2")
    blue_first = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    _, encoded = cv2.imencode(".jpg", blue_first, [int(cv2.IMWRITE_JPEG_QUALITY), quality])
    expected = cv2.cvtColor(cv2.imdecode(encoded, 1), cv2.COLOR_BGR2RGB)
    assert np.array_equal(to_pixels(jpeg(to_tensor(pixels), quality, "opencv")), expected)


def test_no_encoder_takes_anothers_place(pixels, monkeypatch):
    monkeypatch.setattr(augment.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"encoder: opencv is not installed; pip install 'npr-kernels\[cv\]'"):
        jpeg(to_tensor(pixels), 50, "opencv")
    with pytest.raises(ValueError, match="jpeg_encoders: opencv is not installed"):
        Augmentation(jpeg_probability=0.5)
    Augmentation(blur_probability=0.5)
    Augmentation(jpeg_probability=0.5, jpeg_encoders=("pillow",))


def test_resize_is_pillows(pixels):
    height, width = pixels.shape[:2]
    for factor in (0.5, 0.7, 1.3, 2):
        size = round(width * factor), round(height * factor)
        expected = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
        assert np.array_equal(to_pixels(resize(to_tensor(pixels), factor)), expected)
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


@pytest.mark.parametrize("encoder", ["pillow", "opencv"])
@pytest.mark.parametrize("sigma", [None, 0.3, 3.0])
@pytest.mark.parametrize("quality", [None, 30, 90])
def test_a_crop_is_the_whole_images(rng, encoder, sigma, quality):
    if encoder == "opencv":
        pytest.importorskip("cv2")
    degradation = Degradation(sigma, quality, encoder)
    height, width = (int(side) for side in rng.integers(40, 130, 2))
    coarse = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    image = to_tensor(coarse.repeat(4, 0).repeat(4, 1)[:height, :width])
    whole = degradation(image)
    for _ in range(20):
        side = int(rng.integers(2, min(height, width) + 1))
        top, left = int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1))
        expected = whole[:, top : top + side, left : left + side]
        assert torch.equal(degradation.crop(image, top, left, side), expected), (height, width, top, left, side)


def test_draws_are_the_papers(seed):
    augmentation = Augmentation(0.5, (0.0, 3.0), 0.1, (30, 100), ("pillow", "opencv"))
    generator = torch.Generator().manual_seed(seed)
    drawn = [augmentation.draw(generator) for _ in range(4000)]
    sigmas = np.array([d.blur_sigma for d in drawn if d.blur_sigma is not None])
    qualities = [d.jpeg_quality for d in drawn if d.jpeg_quality is not None]
    assert len(sigmas) / 4000 == pytest.approx(0.5, abs=0.04)
    assert len(qualities) / 4000 == pytest.approx(0.1, abs=0.03)
    assert 0 <= sigmas.min() < 0.1 < 2.9 < sigmas.max() <= 3
    assert sigmas.mean() == pytest.approx(1.5, abs=0.12)
    assert 30 <= min(qualities) < 40 < 90 < max(qualities) <= 100
    assert np.mean([d.jpeg_encoder == "opencv" for d in drawn]) == pytest.approx(0.5, abs=0.05)


def test_both_ends_of_the_qualities_are_drawn():
    augmentation = Augmentation(jpeg_probability=1, jpeg_quality=(30, 31), jpeg_encoders=("pillow",))
    generator = torch.Generator().manual_seed(0)
    assert {augmentation.draw(generator).jpeg_quality for _ in range(50)} == {30, 31}


def test_nothing_drawn_is_nothing_done(pixels):
    degradation = Augmentation().draw(torch.Generator())
    image = to_tensor(pixels)
    assert degradation(image) is image
    assert torch.equal(degradation.crop(image, 3, 5, 10), image[:, 3:13, 5:15])


@pytest.mark.parametrize(
    ("values", "kind", "match"),
    [
        ({"blur_probability": 1.5}, ValueError, "blur_probability must be in 0..1, got 1.5"),
        ({"jpeg_probability": -0.1}, ValueError, "jpeg_probability must be finite and not negative"),
        ({"jpeg_probability": "half"}, TypeError, "jpeg_probability must be a number, got str"),
        ({"blur_sigma": (3.0, 1.0)}, ValueError, "blur_sigma must not end below its start, got 3.0 to 1.0"),
        ({"blur_sigma": (-1.0, 1.0)}, ValueError, "blur_sigma must be finite and not negative, got -1.0"),
        ({"blur_sigma": 1.0}, ValueError, "blur_sigma must be a lowest and a highest value, got 1.0"),
        ({"jpeg_quality": (0, 50)}, ValueError, r"jpeg_quality must be in 1..100, got 0"),
        ({"jpeg_quality": (30.5, 50)}, TypeError, "jpeg_quality must be an int, got float"),
        ({"jpeg_encoders": ()}, ValueError, "jpeg_encoders must be a tuple of names"),
        ({"jpeg_encoders": ("mozjpeg",)}, ValueError, "jpeg_encoders must be of opencv, pillow, got 'mozjpeg'"),
    ],
)
def test_wrong_values(values, kind, match):
    with pytest.raises(kind, match=match):
        Augmentation(**values)


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        (lambda image: gaussian_blur(image.float(), 1), TypeError, "image must be uint8, got torch.float32"),
        (lambda image: gaussian_blur(image[:1], 1), ValueError, r"image must be \[3, H, W\] and not empty"),
        (lambda image: gaussian_blur(image, float("nan")), ValueError, "sigma must be finite"),
        (lambda image: jpeg(image, 101), ValueError, "quality must be in 1..100, got 101"),
        (lambda image: jpeg(image, 50, "magick"), ValueError, "encoder must be of opencv, pillow"),
        (lambda image: resize(image, 0), ValueError, "factor must be positive, got 0"),
        (lambda image: resize(image, "2"), TypeError, "factor must be a number, got str"),
        (lambda image: gaussian_noise(image, -1, torch.Generator()), ValueError, "sigma must be finite and not neg"),
    ],
)
def test_wrong_arguments(call, kind, match):
    with pytest.raises(kind, match=match):
        call(torch.zeros(3, 8, 8, dtype=torch.uint8))
