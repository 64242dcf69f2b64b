"""Detector.score: in every form an image has the score that `npr detect --exact` gives its file, bit for bit."""

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import ImageError, Preprocessing, decode
from detector.detection import detect
from detector.models import NPRDetector
from tests.detector.models.original import randomise

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


@pytest.fixture(params=["native", "resize", "centre"])
def model(request, seed):
    torch.manual_seed(seed)
    return randomise(NPRDetector(Preprocessing(request.param, crop=24, resize=40))).eval()


def save_pictures(folder, rng):
    """Files of several modes and sizes, one of them to be turned upright."""
    folder.mkdir(exist_ok=True)
    paths = []
    for name, channels in {"a.png": 3, "b.png": 4, "c.png": 1, "d.jpg": 3}.items():
        pixels = rng.integers(0, 256, (*rng.integers(20, 60, 2), channels), dtype=np.uint8)
        image = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
        exif = Image.Exif()
        exif[0x0112] = 6
        image.save(folder / name, **({"exif": exif} if name == "d.jpg" else {}))
        paths.append(folder / name)
    return paths


@pytest.fixture
def paths(tmp_path, rng):
    return save_pictures(tmp_path, rng)


def scores_of_detect(model, paths):
    return [found.score for found in detect(model, map(str, paths), exact=True)]


def forms(path):
    """The image of a file in every form that there is of one image."""
    tensor = decode(path)
    array = tensor.permute(1, 2, 0).numpy()
    read_only = array.copy()
    read_only.flags.writeable = False
    yield from (str(path), path, Image.open(path), tensor, tensor.contiguous(), array, read_only)
    yield array[::-1].copy()[::-1]


def test_every_form_has_the_score_of_detect(model, paths):
    expected = scores_of_detect(model, paths)
    assert len(set(expected)) > 1
    ready = model.for_inference()
    for path, score in zip(paths, expected, strict=True):
        for form in forms(path):
            found = ready.score(form)
            assert isinstance(found, float)
            assert found == score


def test_several_have_theirs_in_order(model, paths, rng):
    mixed = [form for path in paths for form in list(forms(path))[:4]]
    expected = [score for score in scores_of_detect(model, paths) for _ in range(4)]
    order = rng.permutation(len(mixed))
    for workers in (0, 2):
        found = model.score((mixed[i] for i in order), workers=workers)
        assert found.dtype == torch.float64
        assert found.tolist() == [expected[i] for i in order]


def test_batches_are_several(model, rng):
    arrays = rng.integers(0, 256, (3, *rng.integers(20, 60, 2), 3), dtype=np.uint8)
    expected = [model.score(array) for array in arrays]
    tensor = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    assert model.score(arrays).tolist() == model.score(tensor).tolist() == expected
    assert model.score(tensor[:1]).shape == (1,)
    for nothing in ([], tensor[:0]):
        assert model.score(nothing).shape == (0,)
        assert model.score(nothing).dtype == torch.float64


def test_large_images_are_read_whole(tmp_path, rng, seed):
    torch.manual_seed(seed)
    model = randomise(NPRDetector()).eval()
    # Of more pixels than go through in one pass.
    array = rng.integers(0, 256, (1030, 1030, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "large.png", compress_level=1)
    assert model.score(array) == scores_of_detect(model, [tmp_path / "large.png"])[0]


def test_the_model_is_in_evaluation_mode_afterwards(paths, model):
    assert model.train().score(paths[0]) == model.score(paths[0])
    assert not model.training


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (3, TypeError, r"images must be a path, .*, or several of them, got int"),
        (b"bytes", TypeError, r"images must be a path, .* got bytes"),
        (["{a}", None], TypeError, r"images\[1\] must be a path, .* got NoneType"),
        (np.zeros((8, 8, 3)), TypeError, "images must be uint8, got float64"),
        ([torch.zeros(3, 8, 8)], TypeError, r"images\[0\] must be uint8, got torch.float32"),
        (np.zeros((3, 8, 8), np.uint8), ValueError, r"images must be \[H, W, 3\] .* got \[3, 8, 8\]"),
        (np.zeros((8, 8), np.uint8), ValueError, r"images must be \[H, W, 3\] .* got \[8, 8\]"),
        (torch.zeros(8, 8, 3, dtype=torch.uint8), ValueError, r"images must be \[3, H, W\] .* got \[8, 8, 3\]"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), ValueError, r"images\[0\] must be \[3, H, W\] .* got \[8, 8, 3\]"),
        (torch.zeros(3, 1, 8, dtype=torch.uint8), ValueError, r"H and W at least 2, got \[3, 1, 8\]"),
        ("missing.png", ImageError, "^missing.png: cannot be read"),
        (["{a}", "{broken}"], ImageError, r"broken\.png: is not an image"),
        (Image.new("RGB", (1, 9)), ImageError, r"^images: is 1x9 pixels"),
        ([Image.new("F", (9, 9))], ImageError, r"^images\[0\]: holds 32-bit floating-point samples"),
    ],
)
def test_bad_input_is_named(images, error, message, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])

    def filled(image):
        names = {"a": tmp_path / "a.png", "broken": tmp_path / "broken.png"}
        return image.format(**names) if isinstance(image, str) else image

    images = [filled(image) for image in images] if isinstance(images, list) else filled(images)
    with pytest.raises(error, match=message):
        NPRDetector().score(images)


def test_an_opened_file_that_is_damaged_is_named(tmp_path, rng):
    path = tmp_path / "cut.png"
    Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ImageError, match=r"cut\.png: is damaged"):
        NPRDetector().score(Image.open(path))
