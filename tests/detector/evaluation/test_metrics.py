import numpy as np
import pytest
from sklearn import metrics as truth

from detector.evaluation import average_precision, compute_metrics, roc_auc


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
    assert {got.accuracy, got.average_precision, got.auc, got.real_accuracy, got.fake_accuracy} == {None}


@pytest.mark.parametrize(
    ("labels", "scores", "match"),
    [
        ([0, 1], [0.5], r"shapes \[2\] and \[1\]"),
        ([[0, 1]], [[0.5, 0.5]], r"must be \[N\]"),
        ([0, 2], [0.5, 0.5], "must be 0"),
        ([0, 1], [0.5, np.nan], "finite, got nan"),
    ],
)
@pytest.mark.parametrize("function", [compute_metrics, average_precision, roc_auc])
def test_bad_input(function, labels, scores, match):
    with pytest.raises(ValueError, match=match):
        function(labels, scores)
