import numpy as np
import pytest
from sklearn import metrics as truth

from detector.evaluation import compute_metrics
from detector.evaluation.bootstrap import intervals, mean_intervals, resampled_metrics


def draw(rng, reals, fakes, distinct):
    labels = np.repeat([0, 1], [reals, fakes])
    scores = rng.integers(0, distinct, reals + fakes) / distinct
    return labels, scores


class Drawn:
    """A generator that remembers what it drew."""

    def __init__(self, rng):
        self.rng, self.draws = rng, []

    def integers(self, high, size):
        self.draws.append(self.rng.integers(high, size=size))
        return self.draws[-1]


@pytest.mark.parametrize("distinct", [1, 3, 10**6])
def test_equals_metrics_of_each_draw(distinct):
    """Every resample's metrics are those of the images that were drawn for it, ties included."""
    rng = np.random.default_rng()
    reals, fakes = (int(n) for n in rng.integers(1, 40, 2))
    labels, scores = draw(rng, reals, fakes, distinct)
    drawn = Drawn(rng)
    got = resampled_metrics(labels, scores, 25, drawn)
    of_reals, of_fakes = drawn.draws
    for i in range(25):
        sample = np.concatenate([scores[:reals][of_reals[i]], scores[reals:][of_fakes[i]]])
        assert got["accuracy"][i] == pytest.approx(np.mean((sample > 0.5) == labels))
        assert got["average_precision"][i] == pytest.approx(truth.average_precision_score(labels, sample), abs=1e-12)
        assert got["auc"][i] == pytest.approx(truth.roc_auc_score(labels, sample), abs=1e-12)


def test_many_images_come_in_parts(monkeypatch):
    rng = np.random.default_rng()
    labels, scores = draw(rng, 20, 30, 10**6)
    seed = int(rng.integers(2**31))
    monkeypatch.setattr("detector.evaluation.bootstrap._CHUNK", 7 * 50)
    got = resampled_metrics(labels, scores, 100, np.random.default_rng(seed))
    assert {len(values) for values in got.values()} == {100}
    assert len(np.unique(got["auc"])) > 50


def test_intervals_repeat_and_hold_the_estimate():
    rng = np.random.default_rng()
    labels = np.repeat([0, 1], 200)
    scores = 1 / (1 + np.exp(-rng.normal(labels, 1)))
    first, second = (intervals(resampled_metrics(labels, scores, 1000, np.random.default_rng(3))) for _ in range(2))
    assert first == second
    metrics = compute_metrics(labels, scores)
    for name, (low, high) in first.items():
        assert low < getattr(metrics, name) < high
        assert high - low < 0.2


def test_coverage():
    """Intervals of the accuracy miss the true one about as seldom as they claim: 15 of 300, 60 is far beyond chance."""
    rng = np.random.default_rng()
    missed = 0
    for _ in range(300):
        labels = np.repeat([0, 1], 60)
        scores = np.where(rng.random(120) < 0.8, labels, 1 - labels).astype(float)
        low, high = intervals(resampled_metrics(labels, scores, 200, rng))["accuracy"]
        missed += not low <= 0.8 <= high
    assert missed < 60


def test_one_class_and_nothing():
    rng = np.random.default_rng()
    assert resampled_metrics([1, 1], [0.2, 0.9], 10, rng).keys() == {"accuracy"}
    assert resampled_metrics([], [], 10, rng) == {}
    assert intervals({}) == mean_intervals([]) == {}


def test_mean_intervals_are_narrower():
    rng = np.random.default_rng()
    sets = [resampled_metrics(*draw(rng, 50, 50, 10**6), 500, rng) for _ in range(9)]
    low, high = mean_intervals(sets)["accuracy"]
    widths = [np.subtract(*intervals(each)["accuracy"][::-1]) for each in sets]
    assert high - low < 0.6 * np.mean(widths)
