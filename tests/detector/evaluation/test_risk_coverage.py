import itertools

import numpy as np
import pytest

from detector.evaluation import aurc, balanced_weights, risk_coverage


def plain_aurc(errors, order):
    """The definition, coverage by coverage: the mean over k of the errors among the first k."""
    return sum(sum(errors[i] for i in order[:k]) / k for k in range(1, len(order) + 1)) / len(order)


def test_definition_without_ties(rng):
    for number in (1, 2, 7, 60):
        errors = rng.random(number) < 0.4
        doubts = rng.normal(size=number)
        assert aurc(errors, doubts) == pytest.approx(plain_aurc(errors, np.argsort(doubts)), abs=1e-12)
        curve = risk_coverage(errors, doubts)
        assert curve.coverage == pytest.approx(np.arange(1, number + 1) / number)
        assert curve.risk[-1] == pytest.approx(errors.mean())


def test_ties_are_the_mean_over_all_orders(rng):
    """Every order of the tied images, by hand."""
    for _ in range(10):
        number = 6
        errors, doubts = rng.random(number) < 0.5, rng.integers(0, 3, number)
        areas = [
            plain_aurc(errors, order)
            for order in itertools.permutations(range(number))
            if list(doubts[list(order)]) == sorted(doubts)
        ]
        assert aurc(errors, doubts) == pytest.approx(np.mean(areas), abs=1e-12)


def test_weights_count_as_copies(rng):
    """An image of weight 3 is three images, of which the tie shares the errors."""
    number = 40
    errors, doubts, weights = rng.random(number) < 0.3, rng.normal(size=number), rng.integers(1, 5, number)
    copies = [np.repeat(values, weights) for values in (errors, doubts)]
    curve, many = risk_coverage(errors, doubts, weights), risk_coverage(*copies)
    last = np.searchsorted(many.coverage, curve.coverage - 1e-9)
    assert many.coverage[last] == pytest.approx(curve.coverage)
    assert many.risk[last] == pytest.approx(curve.risk)
    assert aurc(errors, doubts, 7.5 * np.ones(number)) == pytest.approx(aurc(errors, doubts))


def test_the_best_and_the_worst_sign(rng):
    errors = rng.random(300) < 0.4
    share, knowing = errors.mean(), aurc(errors, errors)
    signs = [aurc(errors, rng.normal(size=300)) for _ in range(20)]
    assert aurc(errors, np.zeros(300)) == pytest.approx(share)
    assert knowing <= min(signs)
    assert max(signs) <= aurc(errors, ~errors)
    assert np.mean(signs) == pytest.approx(share, abs=0.05)
    # In the limit of many images: r + (1 - r) ln(1 - r).
    assert knowing == pytest.approx(share + (1 - share) * np.log(1 - share), abs=0.01)


def test_only_the_order_matters(rng):
    errors, doubts = rng.random(50) < 0.5, rng.normal(size=50)
    assert aurc(errors, np.exp(doubts)) == aurc(errors, doubts)
    doubts[doubts == doubts.max()] = np.inf
    assert np.isfinite(aurc(errors, doubts))


def test_balanced_weights(rng):
    labels = np.array([0] * 3 + [1] * 5)
    weights = balanced_weights(labels)
    assert weights[labels == 0].sum() == pytest.approx(weights[labels == 1].sum())
    errors = np.array([1, 1, 0, 0, 0, 1, 0, 0])
    assert risk_coverage(errors, rng.normal(size=8), weights).risk[-1] == pytest.approx((2 / 3 + 1 / 5) / 2)
    assert balanced_weights([]).size == 0


def test_nothing_and_nonsense():
    assert aurc([], []) is None
    for arguments, message in [
        (([1, 0], [1.0]), r"\[N\], got shapes"),
        (([[1]], [[1.0]]), r"\[N\], got shapes"),
        (([1, 0], [1.0, np.nan]), "got NaN"),
        (([1, 0], [1.0, 2.0], [1, 0]), "weights must be above 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            aurc(*arguments)
