"""Likelihood ratios, their bounds and their cost: against scikit-learn, SciPy, and plain loops over the definitions."""

import json
import math

import numpy as np
import pytest

from detector.evaluation.calibration_cost import cllr, cllr_min, logits_of
from detector.evaluation.calibration_curves import ratio_reliability, tippett
from detector.evaluation.calibration_elub import elub
from detector.evaluation.calibration_llr import METHODS, Llr, cross_validated_cllr, fit_llr
from detector.evaluation.calibration_pav import pool_adjacent_violators


def draw(rng, *, distinct=None, shift=None, reals=None, fakes=None):
    """Scores of reals and of fakes whose logits are normal; few distinct ones where asked for."""
    shift = rng.uniform(0.5, 4) if shift is None else shift
    reals, fakes = reals or int(rng.integers(20, 300)), fakes or int(rng.integers(20, 300))
    logits = rng.normal(-shift, 2, reals), rng.normal(shift, 2, fakes)
    scores = [1 / (1 + np.exp(-values)) for values in logits]
    return scores if distinct is None else [np.round(values * distinct) / distinct for values in scores]


def gaussian(rng, reals, fakes, separation=2.0):
    """Logits that are their own natural log-likelihood ratios: normal, of variance 2 m and means -m and m."""
    spread = math.sqrt(2 * separation)
    return rng.normal(-separation, spread, reals), rng.normal(separation, spread, fakes)


# Pool adjacent violators


@pytest.mark.parametrize("distinct", [1, 5, 40, None])
def test_pooling_equals_scikit_learn(distinct, rng):
    isotonic = pytest.importorskip("sklearn.isotonic", reason="needs scikit-learn").IsotonicRegression
    for _ in range(20):
        reals, fakes = draw(rng, distinct=distinct)
        blocks = pool_adjacent_violators(reals, fakes)
        values = np.concatenate([reals, fakes])
        labels = np.repeat([0, 1], [len(reals), len(fakes)])
        weights = np.repeat([0.5 / len(reals), 0.5 / len(fakes)], [len(reals), len(fakes)])
        expected = isotonic(y_min=0, y_max=1).fit(values, labels, sample_weight=weights).predict(values)
        found = blocks.llrs[np.searchsorted(blocks.highest, values)]
        assert 1 / (1 + np.exp(-found)) == pytest.approx(expected, abs=1e-9)
        assert (np.diff(blocks.llrs) > 0).all()
        assert (blocks.highest[:-1] < blocks.lowest[1:]).all()
        assert (blocks.reals.sum(), blocks.fakes.sum()) == (len(reals), len(fakes))


def test_pooling_of_ends():
    blocks = pool_adjacent_violators([0.1, 0.2, 0.6], [0.6, 0.7, 0.8])
    assert blocks.llrs == pytest.approx([-np.inf, 0, np.inf])
    assert blocks.lowest.tolist() == [0.1, 0.6, 0.7]
    assert blocks.highest.tolist() == [0.2, 0.6, 0.8]
    upside_down = pool_adjacent_violators([0.9, 0.8], [0.1])
    assert upside_down.llrs.tolist() == [0]


# Cost


def test_cost_equals_a_loop(rng):
    for _ in range(20):
        reals, fakes = rng.normal(-1, 3, 17), rng.normal(1, 3, 9)
        total = sum(math.log2(1 + math.exp(value)) for value in reals) / len(reals)
        total += sum(math.log2(1 + math.exp(-value)) for value in fakes) / len(fakes)
        assert cllr(reals, fakes) == pytest.approx(total / 2, rel=1e-12)


def test_cost_of_knowing_nothing_of_knowing_all_and_of_misleading():
    assert cllr([0, 0, 0], [0]) == 1
    assert cllr([-np.inf], [np.inf, np.inf]) == 0
    assert cllr([0], [-np.inf]) == np.inf
    assert cllr([800], [0]) == pytest.approx((800 / math.log(2) + 1) / 2)
    assert cllr([], [1.0]) is cllr([1.0], []) is cllr_min([], [1.0]) is cllr_min([0.5], []) is None


@pytest.mark.parametrize("distinct", [1, 5, None])
def test_least_cost_equals_that_of_isotonic_regression(distinct, rng):
    isotonic = pytest.importorskip("sklearn.isotonic", reason="needs scikit-learn").IsotonicRegression
    for _ in range(20):
        reals, fakes = draw(rng, distinct=distinct)
        values = np.concatenate([reals, fakes])
        labels = np.repeat([0, 1], [len(reals), len(fakes)])
        chances = isotonic(y_min=0, y_max=1).fit(values, labels).predict(values)
        with np.errstate(divide="ignore"):
            llrs = np.log(chances) - np.log1p(-chances) - math.log(len(fakes) / len(reals))
        expected = cllr(llrs[labels == 0], llrs[labels == 1])
        assert cllr_min(reals, fakes) == pytest.approx(expected, abs=1e-9)


def test_least_cost_is_least_and_sees_order_alone(rng):
    for _ in range(20):
        reals, fakes = draw(rng)
        least = cllr_min(reals, fakes)
        assert 0 <= least <= 1
        assert cllr_min(reals**3, fakes**3) == pytest.approx(least, abs=1e-12)
        for slope, intercept in rng.normal(1, 1, (10, 2)):
            assert cllr(abs(slope) * logits_of(reals) + intercept, abs(slope) * logits_of(fakes) + intercept) >= least
    assert cllr_min([0.1, 0.2], [0.3, 0.4]) == 0
    assert cllr_min([0.3, 0.4], [0.1, 0.2]) == 1


def test_logits():
    assert logits_of([0.5, 0.75]) == pytest.approx([0, math.log(3)])
    low, high = logits_of([0.0, 1.0])
    assert -low == high == pytest.approx(53 * math.log(2))


# Bounds


def normalised_error(reals, fakes, x):
    """Of deciding at a ratio of e^x and more, as the paper words it, with one misleading image of either label."""
    reals, fakes = np.append(reals, np.inf), np.append(fakes, -np.inf)
    prior = 1 / (1 + math.exp(x))  # of fakes: odds of e^-x
    wrong = prior * np.mean(fakes < x) + (1 - prior) * np.mean(reals >= x)
    return wrong / min(prior, 1 - prior)


def test_bounds_are_where_the_error_first_exceeds_one(rng):
    for _ in range(40):
        reals, fakes = gaussian(rng, int(rng.integers(2, 200)), int(rng.integers(2, 200)), rng.uniform(0.05, 4))
        scale = rng.uniform(0.3, 3)  # worse than calibrated, and better
        digits = int(rng.integers(0, 3)) if rng.random() < 0.5 else 15
        reals, fakes = np.round(scale * reals, digits), np.round(scale * fakes, digits)
        low, high = elub(reals, fakes)
        assert low <= 0 <= high
        # The error jumps at the ratios and is monotonic between them.
        values = np.concatenate([reals, fakes])
        points = np.concatenate([values, np.nextafter(values, -99), np.nextafter(values, 99), np.linspace(-9, 9, 99)])
        for x in points[(low < points) & (points < high) & (points != 0)]:
            assert normalised_error(reals, fakes, x) <= 1 + 1e-9
        for x in (low - 1e-9, high + 1e-9):
            assert normalised_error(reals, fakes, x) > 1


def test_bounds_of_separated_labels_are_their_numbers():
    """F (R + 1) / (F + 1), and its like: what one misleading image beside them leaves."""
    low, high = elub([-np.inf] * 99, [np.inf] * 9)
    assert math.exp(high) == pytest.approx(9 / 10 * 100)
    assert math.exp(-low) == pytest.approx(99 / 100 * 10)
    assert elub([-np.inf], [np.inf]) == pytest.approx((0, 0))
    assert elub([-0.1] * 500, [0.2] * 500) == pytest.approx((-0.1, 0.2)), "no further than the ratios themselves"
    assert elub([3.0, 4.0], [-3.0, -4.0]) == (0, 0)


@pytest.mark.parametrize(
    ("reals", "fakes", "message"),
    [
        ([], [1.0], r"real_llrs must be \[N\] with at least one"),
        ([1.0], [np.nan], "fake_llrs must be numbers"),
    ],
)
def test_bounds_of_bad_input(reals, fakes, message):
    with pytest.raises(ValueError, match=message):
        elub(reals, fakes)


# Ratios


def test_logistic_equals_scikit_learn(rng):
    """Platt's targets as weighted copies of every image with either label."""
    linear = pytest.importorskip("sklearn.linear_model", reason="needs scikit-learn")
    for _ in range(10):
        reals, fakes = draw(rng)
        found = fit_llr(reals, fakes, "logistic").parameters
        r, f = len(reals), len(fakes)
        x = np.concatenate([logits_of(reals), logits_of(fakes)])
        targets = np.concatenate([np.full(r, 1 / (r + 2)), np.full(f, (f + 1) / (f + 2))])
        weights = np.concatenate([np.full(r, (r + 2) / r**2), np.full(f, (f + 2) / f**2)])
        assert weights @ targets == pytest.approx(weights.sum() / 2)
        model = linear.LogisticRegression(C=np.inf, tol=1e-12, max_iter=1000, solver="newton-cholesky")
        model.fit(
            np.tile(x, 2)[:, None],
            np.repeat([1, 0], len(x)),
            sample_weight=np.concatenate([weights * targets, weights * (1 - targets)]),
        )
        assert found["slope"] == pytest.approx(model.coef_[0, 0] / math.log(10), rel=1e-5)
        assert found["intercept"] == pytest.approx(model.intercept_[0] / math.log(10), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_calibrated_logits_stay_as_they_are(method, rng):
    """Where the logit is the natural log ratio, that is what is learnt; whatever the counts of the labels."""
    reals, fakes = gaussian(rng, 40_000, 8_000)
    llr = fit_llr(*(1 / (1 + np.exp(-values)) for values in (reals, fakes)), method)
    for logit in (-1, 0, 1):  # where both labels have many images
        assert math.log(10) * llr(1 / (1 + math.exp(-logit))) == pytest.approx(logit, abs=0.35)
    assert cllr(reals, fakes) == pytest.approx(
        cllr(*(math.log(10) * llr(1 / (1 + np.exp(-values))) for values in (reals, fakes))), abs=0.02
    )


@pytest.mark.parametrize("method", METHODS)
def test_ratios_are_bounded_and_grow(method, rng):
    for distinct in (None, 30):
        reals, fakes = draw(rng, distinct=distinct)
        llr = fit_llr(reals, fakes, method)
        low, high = llr.bounds
        assert -math.log10(len(fakes) + 1) < low <= 0 <= high < math.log10(len(reals) + 1)
        found = llr(np.concatenate([[0.0, 1.0], np.linspace(0, 1, 999)]))
        assert found[0] == found.min() >= low
        assert found[1] == found.max() <= high
        assert (np.diff(found[2:]) >= 0).all()
        assert llr([[0.1, 0.5]]).shape == (1, 2)


def test_separated_labels_do_not_run_away(rng):
    for method in METHODS:
        llr = fit_llr(0.1 * rng.random(50), 1 - 0.1 * rng.random(20), method)
        assert np.isfinite(llr([0.0, 0.5, 1.0])).all()
        assert 1 < llr(1.0) < math.log10(51)
        assert llr(0.0) > -math.log10(21)
        llr = fit_llr([0.2], [0.8], method)
        assert llr([0.0, 1.0]).tolist() == [0, 0], "one image of either label supports nothing"
    llr = fit_llr(np.zeros(50), np.ones(20))
    assert llr(1.0) > 1


def test_pav_is_the_blocks_within_bounds(rng):
    for distinct in (None, 30):
        reals, fakes = draw(rng, distinct=distinct)
        llr = fit_llr(reals, fakes, "pav")
        values = np.concatenate([reals, fakes])
        blocks = pool_adjacent_violators(reals, fakes)
        expected = blocks.llrs[np.searchsorted(blocks.highest, values)] / math.log(10)
        assert llr(values) == pytest.approx(np.clip(expected, *llr.bounds), abs=1e-6)
        raw = [blocks.llrs[np.searchsorted(blocks.highest, group)] for group in (reals, fakes)]
        assert np.array(llr.bounds) * math.log(10) == pytest.approx(elub(*raw), abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_ratios_survive_json(method, rng):
    llr = fit_llr(*draw(rng), method)
    again = Llr.from_dict(json.loads(json.dumps(llr.to_dict(), allow_nan=False)))
    assert again == llr
    scores = rng.random(50)
    assert (again(scores) == llr(scores)).all()


@pytest.mark.parametrize(
    "damage",
    [
        {"method": "horoscope"},
        {"bounds": [1.0]},
        {"bounds": [1.0, -1.0]},
        {"bounds": ["low", "high"]},
        {"parameters": {}},
        {"parameters": {"slope": "steep", "intercept": 0}},
        {"parameters": {"slope": float("nan"), "intercept": 0}},
        {"parameters": None},
    ],
)
def test_damaged_ratios(damage, rng):
    values = fit_llr(*draw(rng)).to_dict()
    with pytest.raises(ValueError, match="a damaged likelihood ratio"):
        Llr.from_dict(values | damage)
    with pytest.raises(ValueError, match="a damaged likelihood ratio"):
        Llr.from_dict({name: value for name, value in values.items() if name not in damage})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0.1], [0.9], "tarot"), "unknown method 'tarot'; there are logistic, pav"),
        (([], [0.9]), r"real_scores must be \[N\] with at least one"),
        (([0.1], [1.5]), "fake_scores must be in 0..1, got 1.5"),
        (([0.1, np.nan], [0.5]), "real_scores must be in 0..1, got nan"),
        (([0.8, 0.9], [0.1, 0.2]), "fakes do not score higher than reals"),
        (([0.5, 0.5], [0.5]), "fakes do not score higher than reals"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_llr(*arguments)


def test_cross_validation_is_honest(rng):
    """On noise, pooling believes what it saw; on others it is worth nothing."""
    costs = []
    for _ in range(30):  # one draw in twelve has nothing to believe; the mean's bounds are five deviations away
        reals, fakes = rng.random(60), rng.random(60)
        llr = fit_llr(reals, fakes, "pav")
        seen = cllr(*(math.log(10) * llr(group) for group in (reals, fakes)))
        costs.append((seen, cross_validated_cllr(reals, fakes, "pav")))
    seen, honest = np.mean(costs, axis=0)
    assert seen < 1 - 1e-3 < 1 < honest
    assert cross_validated_cllr(reals, fakes[:4]) is None
    reals, fakes = draw(rng, shift=2, reals=3000, fakes=3000)
    whole = cllr(*(math.log(10) * fit_llr(reals, fakes)(group) for group in (reals, fakes)))
    assert cross_validated_cllr(reals, fakes) == pytest.approx(whole, abs=0.01)


# Curves


def test_tippett_equals_counting(rng):
    reals, fakes = np.round(rng.normal(-1, 1, 40), 1), np.round(rng.normal(1, 1, 25), 1)
    curve = tippett(reals, fakes)
    assert (np.diff(curve.llrs) > 0).all()
    for llr, real, fake in zip(*curve, strict=True):
        assert real == pytest.approx(np.mean(reals >= llr))
        assert fake == pytest.approx(np.mean(fakes >= llr))


def test_reliability_weighs_labels_alike(rng):
    reals, fakes = gaussian(rng, 50_000, 5_000)
    points = ratio_reliability(reals, fakes)
    assert points.weights.sum() == pytest.approx(1)
    assert points.observed == pytest.approx(points.stated, abs=0.1)
    points = ratio_reliability([-800.0], [800.0])
    assert points.observed[[0, -1]].tolist() == [0, 1]
    assert np.isnan(points.stated[1:-1]).all()
