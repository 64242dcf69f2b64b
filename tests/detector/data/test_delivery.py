"""Deliveries: their texts, every step against Pillow and OpenCV themselves, and crops against the whole image."""

import importlib.util
import io
import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from detector.data import Delivery, degradations
from detector.data.degradations import gaussian_blur, gaussian_noise
from detector.data.steps import Blur, Crop, Jpeg, Noise, Png, Resize, ResizeTo, Sharpen, Shift, Webp

ENCODERS = ["pillow", *(["opencv"] if importlib.util.find_spec("cv2") else [])]
FILTERS = ["nearest", "bilinear", "bicubic", "lanczos", "area"]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_image(rng, height, width):
    """uint8 [3, H, W]: blocks with fine noise on them, so that codecs and filters have both to do."""
    coarse = rng.integers(16, 240, (height // 5 + 1, width // 5 + 1, 3))
    pixels = coarse.repeat(5, 0).repeat(5, 1)[:height, :width] + rng.integers(-16, 16, (height, width, 3))
    return torch.from_numpy(pixels.astype(np.uint8)).permute(2, 0, 1)


@pytest.fixture
def image(rng):
    height, width = (int(side) for side in rng.integers(40, 130, 2))
    return random_image(rng, height, width)


def picture(image):
    return Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))


def tensor(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def through_pillow(image, format, **settings):
    file = io.BytesIO()
    picture(image).save(file, format, **settings)
    return tensor(Image.open(file))


def delivered(text, image, seed=0):
    return Delivery.parse(text)(image, seeded(seed))


positive = st.floats(1e-9, 8, exclude_min=True)
not_negative = st.floats(0, allow_infinity=False)
steps = st.one_of(
    st.just(Png()),
    st.builds(Jpeg, st.integers(1, 100), st.sampled_from(["420", "422", "444"]), st.sampled_from(ENCODERS)),
    st.builds(Webp, st.integers(1, 100)),
    st.builds(Resize, positive, st.sampled_from(FILTERS)),
    st.builds(ResizeTo, st.integers(2, 10**9 - 1), st.sampled_from(FILTERS)),
    st.builds(Crop, st.integers(2, 10**9 - 1)),
    st.builds(Shift, st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1)),
    st.builds(Blur, not_negative),
    st.builds(Noise, not_negative),
)


@given(st.lists(steps, max_size=5))
def test_texts_come_back(steps):
    delivery = Delivery(tuple(steps))
    assert Delivery.parse(str(delivery)) == delivery
    assert hash(Delivery.parse(str(delivery))) == hash(delivery)
    assert str(Delivery.parse(str(delivery))) == str(delivery)


@pytest.mark.parametrize(
    ("text", "canonical", "steps"),
    [
        ("none", "none", ()),
        ("png", "png", (Png(),)),
        ("jpeg:80:420:pillow", "jpeg:80", (Jpeg(80),)),
        ("jpeg:80:444", "jpeg:80:444", (Jpeg(80, "444"),)),
        ("webp:75", "webp:75", (Webp(75),)),
        ("resize:0.50:bicubic", "resize:0.5", (Resize(0.5),)),
        ("resize:640px:lanczos", "resize:640px:lanczos", (ResizeTo(640, "lanczos"),)),
        (" crop:256 , jpeg:75,jpeg:90", "crop:256,jpeg:75,jpeg:90", (Crop(256), Jpeg(75), Jpeg(90))),
        ("shift:1:0,blur:1.0,noise:2", "shift:1:0,blur:1,noise:2", (Shift(1, 0), Blur(1.0), Noise(2.0))),
        ("sharpen:1.50:080", "sharpen:1.5:80", (Sharpen(1.5, 80),)),
    ],
)
def test_texts(text, canonical, steps):
    delivery = Delivery.parse(text)
    assert delivery == Delivery(steps)
    assert str(delivery) == canonical
    assert pickle.loads(pickle.dumps(delivery)) == delivery


def test_an_encoder_is_named():
    pytest.importorskip("cv2")
    assert Delivery.parse("jpeg:80:opencv") == Delivery((Jpeg(80, encoder="opencv"),))
    assert str(Delivery((Jpeg(80, "444", "opencv"),))) == "jpeg:80:444:opencv"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "delivery step '': unknown; there are none, png, jpeg, webp, resize, crop, shift, blur, sharpen, noise"),
        ("fax:3", "delivery step 'fax:3': unknown; there are none, png"),
        ("jpeg:80,", "delivery step '': unknown"),
        ("none,jpeg:80", "delivery step 'none': none stands alone, without other steps"),
        ("none:1", "delivery step 'none:1': none stands alone"),
        ("png:1", "delivery step 'png:1': must be written png"),
        (
            "jpeg",
            r"delivery step 'jpeg': must be written jpeg:Q\[:420\|422\|444\]\[:opencv\|pillow\], Q in 1..100",
        ),
        ("jpeg:high", "delivery step 'jpeg:high': must be written jpeg:Q"),
        ("jpeg:80:411", "delivery step 'jpeg:80:411': must be written jpeg:Q"),
        ("jpeg:101", "delivery step 'jpeg:101': quality must be in 1..100, got 101"),
        ("crop:64,jpeg:0", "delivery step 'jpeg:0': quality must be in 1..100, got 0"),
        ("webp:0", "delivery step 'webp:0': quality must be in 1..100, got 0"),
        ("webp:7.5", "delivery step 'webp:7.5': must be written webp:Q, Q in 1..100"),
        ("resize:0", "delivery step 'resize:0': factor must be positive, got 0.0"),
        ("resize:8.5", "delivery step 'resize:8.5': factor must be at most 8, got 8.5"),
        ("resize:-1", r"delivery step 'resize:-1': must be written resize:S\[:nearest\|bilinear\|bicubic\|lanczos"),
        ("resize:0.5px", "delivery step 'resize:0.5px': must be written resize:S"),
        ("resize:1px", "delivery step 'resize:1px': longest must be at least 2 pixels, got 1"),
        ("resize:0.5:cubic", "delivery step 'resize:0.5:cubic': must be written resize:S"),
        ("crop:1", "delivery step 'crop:1': side must be at least 2 pixels, got 1"),
        ("crop:0.5", "delivery step 'crop:0.5': must be written crop:S, S in pixels"),
        ("shift:1", "delivery step 'shift:1': must be written shift:DY:DX"),
        ("shift:-1:0", "delivery step 'shift:-1:0': must be written shift:DY:DX"),
        ("blur:nan", "delivery step 'blur:nan': must be written blur:SIGMA, SIGMA in pixels"),
        ("blur:1e999", "delivery step 'blur:1e999': sigma must be finite and not negative, got inf"),
        ("noise", "delivery step 'noise': must be written noise:SIGMA, SIGMA in grey levels"),
    ],
)
def test_wrong_texts(text, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Delivery.parse(text)


def test_missing_codecs(monkeypatch):
    monkeypatch.setattr(degradations.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(degradations.features, "check", lambda name: name != "webp")
    with pytest.raises(ValueError, match=r"delivery step 'jpeg:80:opencv': encoder: opencv is not installed; pip inst"):
        Delivery.parse("jpeg:80:opencv")
    with pytest.raises(ValueError, match="delivery step 'webp:80': webp: this Pillow was built without it"):
        Delivery.parse("webp:80")
    Delivery.parse("jpeg:80")


@pytest.mark.parametrize(
    ("make", "kind", "match"),
    [
        (lambda: Jpeg(80.0), TypeError, "quality must be an int, got float"),
        (lambda: Jpeg(80, "411"), ValueError, "subsampling must be of 420, 422, 444, got '411'"),
        (lambda: Jpeg(80, encoder="magick"), ValueError, "encoder must be of opencv, pillow, got 'magick'"),
        (lambda: Resize("half"), TypeError, "factor must be a number, got str"),
        (lambda: Resize(math.nan), ValueError, "factor must be positive, got nan"),
        (lambda: Resize(1, "cubic"), ValueError, "filter must be of nearest, bilinear, bicubic, lanczos, area"),
        (lambda: ResizeTo(64.0), TypeError, "longest must be an int, got float"),
        (lambda: Crop(True), TypeError, "side must be an int, got bool"),
        (lambda: Shift(0, -1), ValueError, "columns must be at least 0 pixels, got -1"),
        (lambda: Noise(-1), ValueError, "sigma must be finite and not negative, got -1"),
    ],
)
def test_wrong_values(make, kind, match):
    with pytest.raises(kind, match=match):
        make()


def test_what_changes_no_pixel(image):
    for text in ("none", "png", "png,png", "resize:1:lanczos", f"resize:{max(image.shape)}px", "crop:999", "shift:0:0"):
        assert torch.equal(delivered(text, image), image), text


@pytest.mark.parametrize(("subsampling", "pillows"), [("", 2), (":420", 2), (":422", 1), (":444", 0)])
def test_jpeg(image, rng, subsampling, pillows):
    quality = int(rng.integers(1, 101))
    expected = through_pillow(image, "JPEG", quality=quality, subsampling=pillows)
    assert torch.equal(delivered(f"jpeg:{quality}{subsampling}", image), expected)


@pytest.mark.parametrize(("subsampling", "factor"), [("", 0x221111), (":422", 0x211111), (":444", 0x111111)])
def test_jpeg_of_opencv(image, rng, subsampling, factor):
    cv2 = pytest.importorskip("cv2")
    quality = int(rng.integers(1, 101))
    pixels = cv2.cvtColor(np.array(picture(image)), cv2.COLOR_RGB2BGR)
    settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor]
    decoded = cv2.imdecode(cv2.imencode(".jpg", pixels, settings)[1], cv2.IMREAD_COLOR)
    expected = tensor(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))
    assert torch.equal(delivered(f"jpeg:{quality}{subsampling}:opencv", image), expected)


def test_webp(image, rng):
    quality = int(rng.integers(1, 101))
    assert torch.equal(delivered(f"webp:{quality}", image), through_pillow(image, "WEBP", quality=quality))


@pytest.mark.parametrize(
    ("suffix", "filter"),
    [
        ("", Image.Resampling.BICUBIC),
        (":nearest", Image.Resampling.NEAREST),
        (":bilinear", Image.Resampling.BILINEAR),
        (":bicubic", Image.Resampling.BICUBIC),
        (":lanczos", Image.Resampling.LANCZOS),
        (":area", Image.Resampling.BOX),
    ],
)
def test_resize(image, rng, suffix, filter):
    height, width = image.shape[1:]
    factor = round(float(rng.uniform(0.2, 3)), 3)
    # Along the rows first, whatever the version of Pillow.
    rows = picture(image).resize((max(2, round(width * factor)), height), filter)
    expected = rows.resize((rows.width, max(2, round(height * factor))), filter)
    assert torch.equal(delivered(f"resize:{factor}{suffix}", image), tensor(expected))
    longest = int(rng.integers(20, 300))
    new_width, new_height = (max(2, round(side * longest / max(width, height))) for side in (width, height))
    expected = picture(image).resize((new_width, height), filter).resize((new_width, new_height), filter)
    got = delivered(f"resize:{longest}px{suffix}", image)
    assert max(got.shape[1:]) == longest
    assert torch.equal(got, tensor(expected))


def test_crop(rng):
    for _ in range(20):
        height, width, side = (int(n) for n in rng.integers(2, 40, 3))
        image = random_image(rng, height, width)
        got = delivered(f"crop:{side}", image)
        rows, columns = min(side, height), min(side, width)
        assert got.shape == (3, rows, columns)
        # The centre, or one pixel before it: cells of 2x2 pixels stay cells.
        top, left = (height - rows) // 2, (width - columns) // 2
        top, left = top - top % 2, left - left % 2
        assert torch.equal(got, image[:, top : top + rows, left : left + columns])


def test_shift(image):
    assert torch.equal(delivered("shift:1:0", image), image[:, 1:])
    assert torch.equal(delivered("shift:3:8", image), image[:, 3:, 8:])
    assert torch.equal(delivered("shift:999:999", image), image[:, -2:, -2:])
    assert delivered("shift:5:5", image[:, :1, :2]).shape == (3, 1, 2)


def test_blur_and_noise(image, seed):
    assert torch.equal(delivered("blur:1.25", image), gaussian_blur(image, 1.25))
    assert torch.equal(delivered("noise:3", image, seed), gaussian_noise(image, 3, seeded(seed)))


def test_sharpening_is_pillows_unsharp_mask(image):
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.UnsharpMask(1.5, 120, 0))
    assert torch.equal(delivered("sharpen:1.5:120", image), torch.from_numpy(np.array(expected)).permute(2, 0, 1))
    assert torch.equal(delivered("sharpen:2:0", image), image)


def test_chains_are_their_steps_one_after_the_other(image, seed):
    chain = ["shift:1:3", "resize:0.6:lanczos", "noise:2", "jpeg:75", "crop:32", "jpeg:90:444", "webp:80"]
    generator, expected = seeded(seed), image
    for step in chain:
        expected = Delivery.parse(step)(expected, generator)
    assert torch.equal(delivered(",".join(chain), image, seed), expected)
    assert torch.equal(delivered("resize:0.5,jpeg:75,jpeg:90", image), delivered("jpeg:90", delivered("jpeg:75",
        delivered("resize:0.5", image))))  # fmt: skip
    assert not torch.equal(delivered("jpeg:20,resize:0.5", image), delivered("resize:0.5,jpeg:20", image))


@pytest.mark.parametrize(
    "text", ["none", "jpeg:70", "webp:70", "resize:0.7", "crop:30,blur:1", "shift:1:1", "sharpen:1:90"]
)
def test_only_noise_draws(image, text):
    generator = seeded(5)
    state = generator.get_state()
    first = Delivery.parse(text)(image, generator)
    assert torch.equal(generator.get_state(), state)
    assert torch.equal(first, delivered(text, image, 6))


def test_noise_follows_the_seed(image, seed):
    assert torch.equal(delivered("noise:9,jpeg:90", image, seed), delivered("noise:9,jpeg:90", image, seed))
    assert not torch.equal(delivered("noise:9", image, seed), delivered("noise:9", image, seed + 1))


def test_memory_formats_and_the_argument(image):
    text = "blur:0.7,jpeg:60,resize:0.8,webp:50,shift:1:1"
    before = image.clone()
    assert torch.equal(delivered(text, image), delivered(text, image.contiguous()))
    strided = image.repeat_interleave(2, dim=2)[:, :, ::2]
    assert torch.equal(delivered(text, image), delivered(text, strided))
    assert torch.equal(image, before)
    with pytest.raises(TypeError, match=r"image must be uint8, got torch.float32"):
        delivered(text, image.float())


@pytest.mark.parametrize(
    "text", ["none", "resize:0.37", "resize:50px", "crop:30", "shift:7:1,resize:1.5,crop:64,jpeg:9"]
)
def test_size(image, text):
    delivery = Delivery.parse(text)
    assert delivery.size(*image.shape[1:]) == tuple(delivered(text, image).shape[1:])


def crops(rng, height, width, count=15):
    """Random squares in an image, and ones in its corners."""
    for _ in range(count):
        side = int(rng.integers(2, min(height, width) + 1))
        yield int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side
    for side in (2, 3, min(height, width)):
        yield from ((0, 0, side), (height - side, width - side, side), (0, width - side, side))


EXACT = [
    "sharpen:1.3:150",
    "none",
    "png",
    "jpeg:60",
    "jpeg:60:422",
    "jpeg:60:444",
    "jpeg:30,jpeg:90",
    "jpeg:75:444,jpeg:40,jpeg:85:422",
    "blur:0.3",
    "blur:3",
    "blur:3,jpeg:30",
    "jpeg:50,blur:1.5",
    "shift:5:3,jpeg:60",
    "jpeg:80,shift:1:6,jpeg:60",
    "crop:37,jpeg:60",
    "jpeg:60,crop:36,jpeg:30,shift:2:1,blur:1",
    "resize:1:lanczos,jpeg:50",
]


@pytest.mark.parametrize("text", [*EXACT, "jpeg:60:opencv", "jpeg:40:444:opencv,shift:3:1,jpeg:70:opencv"])
def test_a_crop_is_the_whole_images(image, rng, text):
    if "opencv" in text:
        pytest.importorskip("cv2")
    delivery = Delivery.parse(text)
    whole = delivery(image, seeded())
    for top, left, side in crops(rng, *whole.shape[1:]):
        expected = whole[:, top : top + side, left : left + side]
        got = delivery.crop(image, top, left, side, seeded())
        assert torch.equal(got, expected), (image.shape, top, left, side)


@pytest.mark.parametrize("width", range(33, 40))
def test_a_crop_beside_a_narrow_block(rng, width):
    """The last block has one to seven columns; libjpeg does not interpolate the chroma of parts so narrow."""
    image = random_image(rng, width + 2, width)
    for text in ("jpeg:60", "jpeg:60:422"):
        whole = delivered(text, image)
        for left in range(30, width - 1):
            got = Delivery.parse(text).crop(image, 5, left, width - left, seeded())
            assert torch.equal(got, whole[:, 5 : 5 + width - left, left:]), (text, left)


@pytest.mark.parametrize("filter", FILTERS)
@pytest.mark.parametrize("factor", [0.31, 0.5, 0.77, 1.4])
def test_a_crop_of_a_resized_image_is_it_but_for_rounding(rng, filter, factor):
    image = random_image(rng, *(int(side) for side in rng.integers(100, 300, 2)))
    delivery = Delivery.parse(f"resize:{factor}:{filter}")
    whole = delivery(image, seeded()).int()
    unequal = total = 0
    for top, left, side in crops(rng, *whole.shape[1:]):
        expected = whole[:, top : top + side, left : left + side]
        difference = (delivery.crop(image, top, left, side, seeded()).int() - expected).abs()
        # A value that changes by one in the first pass may take the second one's rounding with it.
        assert difference.max() <= 2 or filter in ("nearest", "area"), (image.shape, top, left, side)
        unequal, total = unequal + int((difference > 0).sum()), total + difference.numel()
    # "nearest" and "area" choose between neighbours where two are equally near: with a scale of p/q pixels, q even and
    # no power of two, in one of q rows and columns. None of these factors gives a q below 10: 1 - 0.9 ** 2 of pixels.
    # The other filters are continuous: only values that fall on a half may be rounded the other way.
    assert unequal / total < (0.25 if filter in ("nearest", "area") else 0.05)


def test_a_crop_through_webp_is_close(rng):
    image = random_image(rng, 150, 170)
    delivery = Delivery.parse("webp:80")
    whole, lost = delivery(image, seeded()).double(), []
    for top, left, side in crops(rng, 150, 170):
        got = delivery.crop(image, top, left, side, seeded()).double()
        expected = whole[:, top : top + side, left : left + side]
        original = image[:, top : top + side, left : left + side].double()
        assert got.shape == expected.shape
        lost.append(((got - original).square().mean(), (expected - original).square().mean()))
    part, full = torch.tensor(lost).mean(0)
    assert 0.7 < part / full < 1.4  # as much is lost


def test_a_crop_has_noise_of_the_same_kind(rng, seed):
    image = torch.full((3, 300, 300), 128, dtype=torch.uint8)
    got = Delivery.parse("noise:8").crop(image, 20, 31, 200, seeded(seed)).double() - 128
    assert abs(got.mean()) < 5 * 8 / math.sqrt(got.numel())
    assert got.std().item() == pytest.approx((64 + 1 / 12) ** 0.5, rel=5 / math.sqrt(2 * got.numel()))


def test_a_crop_outside(image):
    height, width = image.shape[1:]
    delivery = Delivery.parse("shift:1:1")
    message = rf"must lie in {height - 1}x{width - 1} pixels, got 20x20 from {height - 20}, 0 on"
    with pytest.raises(ValueError, match=message):
        delivery.crop(image, height - 20, 0, 20, seeded())
    with pytest.raises(ValueError, match="got 20x20 from 0, -1 on"):
        delivery.crop(image, 0, -1, 20, seeded())


def test_a_crop_costs_little(monkeypatch):
    """Of a large photograph, only the neighbourhood of the crop is coded."""
    coded = []
    original = degradations._through_pillow
    monkeypatch.setattr(degradations, "_through_pillow", lambda pixels, *a, **k: coded.append(pixels.shape) or original(
        pixels, *a, **k))  # fmt: skip
    image = torch.zeros(3, 3000, 4000, dtype=torch.uint8)
    Delivery.parse("jpeg:90,resize:0.5:lanczos,jpeg:75,webp:80").crop(image, 701, 903, 64, seeded())
    assert len(coded) == 3
    assert max(max(shape) for shape in coded) < 2 * (64 + 3 * 32) + 48
