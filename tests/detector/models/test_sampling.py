"""Verdicts from a part of an image: the intervals hold, and what is undecided is read whole, to the same bits."""

from concurrent.futures import Future
from functools import partial
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from detector.data import Preprocessing
from detector.models import CNNDetector, Detector, NPRDetector, SAFEDetector, inference, sampling
from detector.models.inference import score_stream
from detector.models.passes import Passes
from detector.models.sampling import Sample, plan_rounds, reading_stream, student
from detector.verdicts import verdict
from tests.detector.models.original import randomise

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")

STRIDE = 8
SHAPE = SimpleNamespace(pooling="mean", feature_stride=STRIDE, tile_alignment=STRIDE, feature_reach=45)
"""What a plan rests on, of the detector in the box."""


class Grey(Detector):
    """Local logits are the mean grey of each 8x8 pixels, from -scale to scale: fast, and known beforehand."""

    def __init__(self, scale=5.0, pooling="mean"):
        super().__init__()
        self.preprocessing = Preprocessing()
        self.pooling = pooling
        self.fc = torch.nn.Linear(1, 1)
        self.fc.weight.data.fill_(2 * scale / 255)
        self.fc.bias.data.fill_(-scale)

    @property
    def architecture(self):
        return {}

    @property
    def classifier(self):
        return self.fc

    @property
    def feature_stride(self):
        return STRIDE

    @property
    def feature_reach(self):
        return STRIDE

    def features(self, images):
        grey = images.float().mean(dim=1, keepdim=True)
        return torch.nn.functional.avg_pool2d(grey, STRIDE, ceil_mode=True)


@pytest.fixture
def small_passes(monkeypatch):
    """Images are large from 128x128 pixels on."""
    monkeypatch.setattr(inference, "MAX_PIXELS", 2**14)


def grey_image(rng, height, width):
    """Brightness of patches of all sizes, as decoded."""
    values = sum(
        np.kron(rng.uniform(0, 128 / 2**n, (height // 2**n + 1, width // 2**n + 1)), np.ones((2**n, 2**n)))[
            :height, :width
        ]
        for n in range(3)
    )
    return torch.from_numpy(np.repeat(values[..., None], 3, axis=2).astype(np.uint8)).permute(2, 0, 1)


def readings_of(model, images, *, threshold=0.5, confidence=0.99):
    outcome = partial(verdict, threshold=threshold)
    return [
        reading for _, reading in reading_stream(model, enumerate(images), 4, outcome=outcome, confidence=confidence)
    ]


# Where windows lie


@pytest.mark.parametrize("size", [(1200, 1800), (3024, 4032), (2001, 1337), (40000, 40), (37, 60001), (4096, 4096)])
def test_a_plan_covers_the_image_with_blocks_and_repeats_no_window(size):
    height, width = size
    plan = plan_rounds(SHAPE, height, width)
    windows = [entry for found in plan.rounds for entry in found]
    assert len(plan.rounds) > 1
    assert len({(w.rows.start, w.rows.stop, w.columns.start, w.columns.stop) for _, w in windows}) == len(windows)
    assert sum(plan.shares) == pytest.approx(1)
    assert 12 <= len(plan.sizes) <= 20
    assert sum(window.pixels for _, window in windows) <= sampling.MOST * height * width
    for found, wanted in zip(plan.rounds, (2, 1, 2, 3), strict=False):
        assert np.bincount([block for block, _ in found], minlength=len(plan.sizes)).tolist() == [wanted] * len(
            plan.sizes
        )
    for _, window in windows:
        assert 0 <= window.rows.start < window.rows.stop <= height
        assert 0 <= window.columns.start < window.columns.stop <= width
    assert plan_rounds(SHAPE, height, width) == plan


def test_orders_differ_with_the_size():
    first, second = (plan_rounds(SHAPE, 3000, side).rounds[0] for side in (4000, 4001))
    assert [window.rows for _, window in first] != [window.rows for _, window in second]


@pytest.mark.parametrize("side", [2, 7, 8, 9, 48, 71, 72, 73, 1000, 4001])
def test_cores_divide_a_side(side):
    cores = sampling._cores(side, 8, 48)
    assert cores[0].start == 0
    assert cores[-1].stop == -(-side // 8) * 8
    assert all(one.stop == other.start for one, other in pairwise(cores))
    widths = sampling._widths(cores, side)
    assert sum(widths) == side
    assert min(widths) >= min(side, 8)
    assert max(widths[:-1], default=0) - min(widths[:-1], default=0) <= 8
    assert max(widths) < 48 * 1.5 + 8


def test_small_images_and_detectors_that_need_the_whole_are_read_whole(seed):
    assert not plan_rounds(SHAPE, 1000, 1000).rounds
    assert plan_rounds(SHAPE, 1200, 1200).rounds
    assert plan_rounds(NPRDetector(), 3000, 4000).rounds
    assert not plan_rounds(NPRDetector(pooling="top-10%"), 3000, 4000).rounds
    assert not plan_rounds(SAFEDetector(), 3000, 4000).rounds
    assert not plan_rounds(CNNDetector(), 3000, 4000).rounds
    assert plan_rounds(CNNDetector(), 6000, 8000).rounds


@pytest.mark.parametrize("size", [(700, 40), (39, 701), (161, 150)])
def test_windows_give_the_uncut_features(size, rng, seed):
    """With the detector's own reach: what a window tells is the mean of the uncut image's local logits there."""
    torch.manual_seed(seed)
    model = randomise(NPRDetector(residual="npr+haar")).eval()
    image = torch.from_numpy(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).permute(2, 0, 1)
    rows, columns = (sampling._cores(side, 8, 48) for side in size)
    with torch.inference_mode():
        features = model.features(image[None])
        whole = model.local_logits(features).view(features.shape[2:])
        total = 0
        for row in rows:
            for column in columns:
                window = inference.window_of(model, size, row, column)
                logit, count = sampling._local_logit(model, image, window)
                expected = whole[row.start // 8 : row.stop // 8, column.start // 8 : column.stop // 8]
                assert count == expected.numel() > 0
                assert logit == pytest.approx(expected.mean().item(), abs=1e-3 * whole.std().item())
                total += count
        assert total == whole.numel()


# Whether intervals hold


@pytest.mark.parametrize("probability", [0.9, 0.995, 0.9992, 0.9999])
def test_students_quantile(probability):
    for freedom in (15, 29, 31, 100, 3000):
        assert student(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-3)


def smooth(rng, height, width, scale):
    """Normal deviates that change over `scale` positions, of standard deviation 1."""
    coarse = rng.standard_normal((height // scale + 2, width // scale + 2))
    field = np.kron(coarse, np.ones((scale, scale)))
    top, left = rng.integers(scale, size=2)
    return field[top : top + height, left : left + width]


def photograph(rng, height, width):
    """Local logits as measured on photographs: about -1, of deviation 1, much of it common to neighbours."""
    return (
        rng.uniform(-2, 1)
        + 0.7 * rng.standard_normal((height, width))
        + sum(rng.uniform(0, 0.5) * smooth(rng, height, width, scale) for scale in (4, 12, 50))
    )


def heavy_tailed(rng, height, width):
    """Blocks smaller than a window, of three degrees of freedom."""
    field = rng.standard_t(3, (height // 4 + 1, width // 4 + 1))
    return np.kron(field, np.ones((4, 4)))[:height, :width]


def skewed(rng, height, width):
    """As skewed as the most skewed photograph measured, window for window: by 2."""
    sign = rng.choice([-1, 1])
    return sign * np.kron(rng.exponential(size=(height // 6 + 1, width // 6 + 1)), np.ones((6, 6)))[:height, :width]


def flat(rng, height, width):
    """A drawing: one colour, and here and there a stroke."""
    values = np.full((height, width), rng.uniform(-2, 2))
    for _ in range(5):
        top, left = rng.integers(height), rng.integers(width)
        values[top : top + height // 8, left : left + 6] += rng.normal()
    return values


def halves(rng, height, width):
    """One half generated, cut anywhere and in any direction."""
    rows, columns = np.mgrid[:height, :width]
    angle = rng.uniform(0, np.pi)
    distance = np.cos(angle) * (rows - rng.uniform(0.2, 0.8) * height) + np.sin(angle) * (
        columns - rng.uniform(0.2, 0.8) * width
    )
    return photograph(rng, height, width) + rng.uniform(2, 5) * (distance > 0)


def patched(rng, height, width):
    """A generated rectangle of a tenth to a quarter of a photograph."""
    values = photograph(rng, height, width)
    side = np.sqrt(rng.uniform(0.1, 0.25))
    rows, columns = (max(1, int(side * length)) for length in (height, width))
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    values[top : top + rows, left : left + columns] += rng.uniform(2, 4)
    return values


@pytest.mark.parametrize("population", [photograph, heavy_tailed, skewed, flat, halves, patched])
def test_intervals_hold_and_verdicts_are_right(population, rng, monkeypatch):
    """The whole procedure, at thresholds near and far. At 99 %, over 14 of 250 draws fail with probability 1e-7."""
    draws, failures, wrong, whole = 250, 0, 0, 0
    for _ in range(draws):
        height, width = rng.integers(1200, 3000, 2)
        rows, columns = -(-height // STRIDE), -(-width // STRIDE)
        local = population(rng, rows, columns)
        whole_image = rng.normal()  # what the whole image adds is known, not estimated
        exact = local.mean() + whole_image
        monkeypatch.setattr(sampling, "start_whole", lambda *_: promised(whole_image))  # noqa: B023
        monkeypatch.setattr(sampling, "_local_logit", lambda model, image, window: place(local, window))  # noqa: B023
        monkeypatch.setattr(sampling, "start_logit", lambda *_: promised(torch.tensor(exact)))  # noqa: B023
        threshold = 1 / (1 + np.exp(-exact - rng.choice([-1, 1]) * rng.choice([0.05, 0.1, 0.2, 0.4, 1])))
        plan = plan_rounds(SHAPE, height, width)
        with Passes(1) as passes:
            image = torch.empty(3, height, width, device="meta")
            reading = Sample(passes, None, image, plan, partial(verdict, threshold=threshold), 0.99).result()
        score = 1 / (1 + np.exp(-exact))
        whole += reading.interval is None
        wrong += (reading.score > threshold) != (score > threshold)
        if reading.interval is not None:
            low, high = reading.interval
            assert low <= reading.score <= high
            assert (low > threshold) == (reading.score > threshold) == (high > threshold)
            failures += not low <= score <= high
    limit = stats.binom.isf(1e-7, draws, 0.01)
    assert failures <= limit
    assert wrong <= limit
    assert 0 < whole < draws


def place(local, window):
    """The mean of the local logits that a window gives, and their number."""
    rows, columns = (
        slice(pixels.start // STRIDE + kept.start, pixels.start // STRIDE + kept.stop)
        for pixels, kept in ((window.rows, window.feature_rows), (window.columns, window.feature_columns))
    )
    return local[rows, columns].mean(), local[rows, columns].size


def promised(value):
    future = Future()
    future.set_result(value)
    return future


# What is read


def test_reading_ends_when_the_verdict_is_certain(rng, small_passes):
    model, image = Grey().eval(), grey_image(rng, 400, 500)
    ((_, exact),) = score_stream(model, [(0, image)], 4)
    (far,) = readings_of(model, [image], threshold=0.01, confidence=1 - 1e-6)
    low, high = far.interval
    assert low < far.score < high < 1
    assert low <= exact <= high
    assert 0 < far.read < 0.2
    (inside,) = readings_of(model, [image], threshold=0.9 * high + 0.1 * far.score, confidence=1 - 1e-6)
    assert far.read < inside.read <= 1


def test_undecided_images_are_read_whole_to_the_same_bits(rng, small_passes):
    model = Grey().eval()
    images = [grey_image(rng, *rng.integers(200, 400, 2)) for _ in range(4)]
    images += [grey_image(rng, 100, 100), grey_image(rng, 9, 3000)]
    exact = [score for _, score in score_stream(model, enumerate(images), 4)]
    assert len(set(exact)) == len(exact)
    for image, score in zip(images, exact, strict=True):
        # Of a sample that says nothing else than the threshold, one in a million would be decided.
        assert readings_of(model, [image], threshold=score, confidence=1 - 1e-6) == [(score, 1.0, None)]
    assert [reading.score for reading in readings_of(model, images, confidence=None)] == exact
    assert readings_of(Grey(pooling="top-20%").eval(), images[:1])[0].interval is None


def test_readings_depend_on_the_image_alone(rng, small_passes):
    model = Grey().eval()
    images = [grey_image(rng, *rng.integers(100, 400, 2)) for _ in range(6)]
    before = torch.get_num_threads()
    try:
        ways = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.manual_seed(threads)
            ways.append(readings_of(model, images))
            ways.append([reading for image in images for reading in readings_of(model, [image])])
    finally:
        torch.set_num_threads(before)
    assert all(way == ways[0] for way in ways)
    assert any(reading.interval is not None for reading in ways[0])


def test_a_detector_of_the_box_reads_thin_images_in_part(rng, seed, small_passes):
    torch.manual_seed(seed)
    model = randomise(NPRDetector(residual="npr+haar")).eval()
    image = torch.from_numpy(rng.integers(0, 256, (12001, 33, 3), dtype=np.uint8)).permute(2, 0, 1)
    ((_, exact),) = score_stream(model, [(0, image)], 4)
    (reading,) = readings_of(model, [image], threshold=0.0, confidence=1 - 1e-6)
    assert reading.read < 0.5
    assert reading.interval[0] <= exact <= reading.interval[1]


@pytest.mark.parametrize("confidence", [0, 1, -0.5, 2, float("nan")])
def test_confidence_out_of_range(confidence):
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got"):
        readings_of(Grey(), [], confidence=confidence)
