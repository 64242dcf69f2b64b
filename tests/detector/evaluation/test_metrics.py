from functools import partial
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn import metrics as truth

from detector.evaluation import average_precision, balanced_average_precision, cllr_min, compute_metrics, roc_auc
from detector.evaluation.metrics import (
    chance_average_precision,
    equal_error_rate,
    fpr_at_recall,
    reliability,
    tpr_at_fpr,
)


def draw(rng, distinct):
    """Labels of both classes, and scores with many ties when few are distinct."""
    n = int(rng.integers(2, 200))
    labels = rng.integers(0, 2, n)
    labels[:2] = 0, 1
    scores = rng.integers(0, distinct, n) / max(distinct - 1, 1)
    return labels, scores


@pytest.mark.parametrize("distinct", [1, 2, 5, 50, 10**9])
def test_equal_scikit_learn(distinct):
    rng = np.random.default_rng()
    for _ in range(30):
        labels, scores = draw(rng, distinct)
        got = compute_metrics(labels, scores)
        predicted = scores > 0.5
        assert got.average_precision == pytest.approx(truth.average_precision_score(labels, scores), abs=1e-12)
        assert got.auc == pytest.approx(truth.roc_auc_score(labels, scores), abs=1e-12)
        assert got.accuracy == pytest.approx(truth.accuracy_score(labels, predicted))
        assert got.real_accuracy == pytest.approx(truth.recall_score(labels, predicted, pos_label=0))
        assert got.fake_accuracy == pytest.approx(truth.recall_score(labels, predicted, pos_label=1))
        assert (got.reals, got.fakes, got.images) == ((labels == 0).sum(), (labels == 1).sum(), len(labels))


@pytest.mark.parametrize("distinct", [1, 2, 5, 50, 10**9])
def test_best_threshold_equals_trying_all(distinct):
    rng = np.random.default_rng()
    for _ in range(20):
        labels, scores = draw(rng, distinct)
        got = compute_metrics(labels, scores)
        tried = np.unique(np.concatenate([scores, [-1]]))
        accuracies = [np.mean((scores > threshold) == labels) for threshold in tried]
        assert got.best_accuracy == pytest.approx(max(accuracies))
        assert np.mean((scores > got.best_threshold) == labels) == pytest.approx(got.best_accuracy)
        # Nearest to 0.5 among the middles between neighbouring scores that are as good.
        edges = np.unique(scores)
        middles = [1.0, *((edges[1:] + edges[:-1]) / 2), 0.0]
        good = [t for t in middles if np.mean((scores > t) == labels) == got.best_accuracy]
        assert not good or abs(got.best_threshold - 0.5) <= min(abs(t - 0.5) for t in good) + 1e-12


def test_best_threshold_between_neighbouring_numbers():
    low = 0.25
    high = np.nextafter(low, 1)
    got = compute_metrics([0, 1], [low, high])
    assert got.best_accuracy == 1
    assert low <= got.best_threshold < high
    got = compute_metrics([0, 1, 1, 1], [0.0, 0.0, 0.0, 0.0])
    assert (got.best_accuracy, got.best_threshold < 0) == (0.75, True)


@pytest.mark.parametrize("distinct", [1, 3, 31, 10**9])
def test_false_positives_equal_trying_all(distinct):
    rng = np.random.default_rng()
    for _ in range(20):
        labels, scores = draw(rng, distinct)
        for recall in (0.5, 0.95, 1.0):
            fits = [t for t in np.unique(scores) if np.mean(scores[labels == 1] >= t) >= recall]
            assert fpr_at_recall(labels, scores, recall) == pytest.approx(np.mean(scores[labels == 0] >= max(fits)))


@pytest.mark.parametrize("distinct", [1, 31, 10**9])
def test_calibration_error_equals_a_loop(distinct):
    rng = np.random.default_rng()
    for _ in range(20):
        labels, scores = draw(rng, distinct)
        total = 0.0
        for low, high in zip(np.arange(15) / 15, np.arange(1, 16) / 15, strict=True):
            members = (scores > low) & (scores <= high) | (low == 0) & (scores == 0)
            if members.any():
                total += members.mean() * abs(labels[members].mean() - scores[members].mean())
        assert compute_metrics(labels, scores).ece == pytest.approx(total, abs=1e-12)
        assert reliability(labels, scores).images.sum() == len(labels)


def test_calibrated_scores_have_no_error():
    rng = np.random.default_rng()
    scores = rng.random(200_000)
    labels = rng.random(200_000) < scores
    assert compute_metrics(labels, scores).ece < 0.02
    assert compute_metrics(labels, 1 - scores).ece > 0.4


@pytest.mark.parametrize(("reals", "fakes"), [(1, 1), (1, 3), (3, 1), (2, 2), (4, 3)])
def test_chance_equals_the_mean_over_all_orders(reals, fakes):
    scores = np.linspace(0, 1, reals + fakes)
    orders = [np.isin(np.arange(reals + fakes), chosen) for chosen in combinations(range(reals + fakes), fakes)]
    mean = np.mean([average_precision(labels, scores) for labels in orders])
    assert chance_average_precision(reals, fakes) == pytest.approx(mean, abs=1e-12)
    assert chance_average_precision(reals, 0) is None


@pytest.mark.parametrize("distinct", [1, 2, 5, 50, 10**9])
def test_balanced_average_precision_equals_weighted_scikit_learn(distinct):
    rng = np.random.default_rng()
    for _ in range(30):
        labels, scores = draw(rng, distinct)
        weights = np.where(labels, 1 / labels.sum(), 1 / (1 - labels).sum())
        expected = truth.average_precision_score(labels, scores, sample_weight=weights)
        assert balanced_average_precision(labels, scores) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("distinct", [5, 10**9])
def test_balanced_average_precision_does_not_see_counts(distinct):
    """More of the same reals, or of the same fakes, change average precision and nothing of the balanced one."""
    rng = np.random.default_rng()
    labels, scores = np.repeat([0, 1], 40), rng.integers(0, distinct, 80) / distinct
    balanced = balanced_average_precision(labels, scores)
    assert balanced == pytest.approx(average_precision(labels, scores), abs=1e-12)
    for label in (0, 1):
        times = np.where(labels == label, int(rng.integers(2, 9)), 1)
        repeated = np.repeat(labels, times), np.repeat(scores, times)
        assert balanced_average_precision(*repeated) == pytest.approx(balanced, abs=1e-12)
        assert abs(average_precision(*repeated) - balanced) > 1e-3


def test_balanced_average_precision_of_guessing_and_of_one_class():
    rng = np.random.default_rng()
    labels = rng.random(100_000) < 0.02
    assert balanced_average_precision(labels, rng.random(100_000)) == pytest.approx(0.5, abs=0.03)
    assert balanced_average_precision(labels, np.zeros(100_000)) == pytest.approx(0.5, abs=1e-12)
    assert balanced_average_precision([1, 1], [0.1, 0.9]) is None
    assert balanced_average_precision([0], [0.1]) is None


def test_half_is_real():
    got = compute_metrics([0, 1], [0.5, 0.5])
    assert (got.real_accuracy, got.fake_accuracy, got.accuracy) == (1.0, 0.0, 0.5)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class(label):
    got = compute_metrics([label] * 4, [0.1, 0.2, 0.8, 0.9])
    assert got.average_precision is None
    assert got.auc is None
    assert got.accuracy == 0.5
    assert (got.real_accuracy, got.fake_accuracy) == ((0.5, None) if label == 0 else (None, 0.5))


def test_empty():
    got = compute_metrics([], [])
    assert got.images == 0
    assert {value for name, value in vars(got).items() if name not in ("reals", "fakes")} == {None}


@pytest.mark.parametrize(
    ("labels", "scores", "match"),
    [
        ([0, 1], [0.5], r"shapes \[2\] and \[1\]"),
        ([[0, 1]], [[0.5, 0.5]], r"must be \[N\]"),
        ([0, 2], [0.5, 0.5], "must be 0"),
        ([0, 1], [0.5, np.nan], "finite, got nan"),
        ([0, 1], [0.5, 1.5], r"in 0..1, got 0.5 to 1.5"),
    ],
)
@pytest.mark.parametrize("function", [compute_metrics, average_precision, balanced_average_precision, roc_auc])
def test_bad_input(function, labels, scores, match):
    with pytest.raises(ValueError, match=match):
        function(labels, scores)


@pytest.mark.parametrize("distinct", [1, 3, 31, 10**9])
def test_operating_points_equal_scikit_learn(distinct):
    """And equal rates: where the curve, as scikit-learn draws it, crosses the falling diagonal."""
    rng = np.random.default_rng()
    for _ in range(20):
        labels, scores = draw(rng, distinct)
        false_rate, true_rate, _ = truth.roc_curve(labels, scores, drop_intermediate=False)
        for rate in (0.0, 0.001, 0.01, 0.3, 1.0):
            assert tpr_at_fpr(labels, scores, rate) == pytest.approx(true_rate[false_rate <= rate].max())
        # Tilted by less than the tolerance, so that it is a function where it climbs straight up.
        tilted = false_rate + 1e-9 * np.arange(len(false_rate))
        crossing = brentq(partial(_above_the_diagonal, tilted, true_rate), 0, 1)
        assert equal_error_rate(labels, scores) == pytest.approx(crossing, abs=1e-6)


def _above_the_diagonal(false_rate, true_rate, x):
    return np.interp(x, false_rate, true_rate) - (1 - x)


def test_operating_points_of_one_class():
    for function in (equal_error_rate, lambda labels, scores: tpr_at_fpr(labels, scores, 0.01)):
        assert function([1, 1], [0.1, 0.9]) is None
        assert function([], []) is None


@pytest.mark.parametrize("distinct", [3, 10**9])
def test_forensic_metrics_are_their_functions(distinct):
    labels, scores = draw(np.random.default_rng(), distinct)
    got = compute_metrics(labels, scores)
    reals, fakes = scores[labels == 0], scores[labels == 1]
    assert got.eer == equal_error_rate(labels, scores)
    assert got.tpr_at_1_percent_fpr == tpr_at_fpr(labels, scores, 0.01)
    assert got.tpr_at_0_1_percent_fpr == tpr_at_fpr(labels, scores, 0.001)
    clipped = np.clip(scores, 2**-53, 1 - 2**-53)
    costs = np.where(labels == 1, -np.log2(clipped), -np.log2(1 - clipped))  # of a score as a posterior at even odds
    assert got.cllr == pytest.approx((costs[labels == 0].mean() + costs[labels == 1].mean()) / 2, rel=1e-9)
    assert got.cllr_min == cllr_min(reals, fakes) <= got.cllr
