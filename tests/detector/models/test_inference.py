"""An image's logit on the CPU is the same, bit for bit, whatever comes with it and on however many threads."""

import pytest
import torch

from detector.models import CNNDetector, NPRDetector, inference
from detector.models.inference import logits, score_stream
from tests.detector.models.original import randomise

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")

MODELS = {
    "NPR": NPRDetector,
    "NPR, haar, top-10%": lambda: NPRDetector(residual="haar", pooling="top-10%"),
    "CNNDetection": CNNDetector,
}


@pytest.fixture
def thread_counts():
    """1 to 3, set one after another."""

    def counts():
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            yield count

    before = torch.get_num_threads()
    yield counts()
    torch.set_num_threads(before)


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name == "CNNDetection")) for name in MODELS])
def model(request, seed):
    torch.manual_seed(seed)
    return randomise(MODELS[request.param]()).eval()


def random_images(rng, count, height, width):
    """As decoded: channels_last, each of another contrast."""
    pixels = rng.integers(0, 256, (count, height, width, 3)) * rng.uniform(0.2, 1, (count, 1, 1, 1))
    return torch.from_numpy(pixels.astype("uint8")).permute(0, 3, 1, 2)


def test_logits_depend_on_the_image_alone(model, rng, thread_counts):
    images = random_images(rng, 5, *rng.integers(32, 70, 2))
    order = torch.from_numpy(rng.permutation(5))
    expected = None
    for count in thread_counts:
        alone = torch.cat([logits(model, image[None]) for image in images])
        expected = alone if expected is None else expected
        ways = {
            "alone": alone,
            "in one batch": logits(model, images),
            "in two": torch.cat([logits(model, part) for part in images.split(3)]),
            "in another order": logits(model, images[order])[order.argsort()],
            "with planes of channels": logits(model, images.contiguous()),
            "with strides": logits(model, images.repeat_interleave(2, dim=3)[..., ::2]),
        }
        for name, got in ways.items():
            assert torch.equal(got, expected), f"{name}, {count} threads"
    assert len(set(expected.tolist())) == 5


def test_tiles_do_not_depend_on_threads(rng, seed, thread_counts):
    for pooling in ("mean", "top-20%"):
        torch.manual_seed(seed)
        model = randomise(NPRDetector(pooling=pooling)).eval()
        images = random_images(rng, 2, 150, 170)
        ways = [logits(model, images, max_pixels=120**2) for _ in thread_counts]
        assert all(torch.equal(way, ways[0]) for way in ways)


def test_streams_give_the_scores_of_logits(rng, seed, thread_counts, monkeypatch):
    """Sizes mixed, one image larger than a pass, one twice; in the order of the views."""
    monkeypatch.setattr(inference, "MAX_PIXELS", 120**2)
    torch.manual_seed(seed)
    model = randomise(NPRDetector()).eval()
    images = [random_images(rng, 1, *rng.integers(16, 64, 2))[0] for _ in range(5)]
    images += [random_images(rng, 1, 130, 140)[0], images[3]]
    expected = [logits(model, image[None], max_pixels=120**2).sigmoid().item() for image in images]
    assert len(set(expected)) == 6
    for count in thread_counts:
        assert list(score_stream(model, enumerate(images), batch_size=count)) == list(enumerate(expected))


def test_a_stream_that_is_left_leaves_nothing_behind(rng, seed):
    torch.manual_seed(seed)
    model = randomise(NPRDetector()).eval()
    before = torch.get_num_threads()
    stream = score_stream(model, ((i, random_images(rng, 1, 32, 32)[0]) for i in range(50)), 4)
    next(stream)
    stream.close()
    assert torch.get_num_threads() == before


def test_an_error_among_the_views_is_raised(rng, seed):
    def views():
        yield 0, random_images(rng, 1, 32, 32)[0]
        raise OSError("the disk is gone")

    torch.manual_seed(seed)
    with pytest.raises(OSError, match="the disk is gone"):
        list(score_stream(randomise(NPRDetector()).eval(), views(), 4))
