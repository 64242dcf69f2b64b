import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from detector.evaluation.bootstrap import intervals, resampled_metrics
from detector.evaluation.delong import auc_and_interval, midranks


def draw(rng, reals, fakes, levels=None, shift=0.7):
    values = np.concatenate([rng.normal(0, 1, reals), rng.normal(shift, 2, fakes)])
    values = values if levels is None else np.floor(values * levels) / levels
    labels = np.repeat([0, 1], [reals, fakes])
    order = rng.permutation(len(labels))
    return labels[order], values[order] * 1e6


@pytest.mark.parametrize("levels", [None, 1, 3])
def test_auc_is_scikit_learns(levels, rng):
    for _ in range(20):
        labels, values = draw(rng, *rng.integers(1, 40, 2), levels)
        auc, (low, high) = auc_and_interval(labels, values)
        assert auc == pytest.approx(roc_auc_score(labels, values), abs=1e-12)
        assert 0 <= low <= auc <= high <= 1


def test_midranks_are_scipys(rng):
    for size in (0, 1, 50):
        values = rng.integers(0, 9, size).astype(float)
        assert np.array_equal(midranks(values), stats.rankdata(values))


def test_the_variance_is_delongs(rng):
    """Against the definition by pairs, on the logit scale."""
    labels, values = draw(rng, 17, 23, levels=2)
    fakes, reals = values[labels == 1], values[labels == 0]
    pairs = (fakes[:, None] > reals) + 0.5 * (fakes[:, None] == reals)
    auc = pairs.mean()
    deviation = np.sqrt(pairs.mean(axis=1).var(ddof=1) / 23 + pairs.mean(axis=0).var(ddof=1) / 17)
    _, found = auc_and_interval(labels, values)
    logit = np.log(auc / (1 - auc)) + np.array([-1, 1]) * stats.norm.ppf(0.975) * deviation / (auc * (1 - auc))
    assert found == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-12)


def test_the_interval_is_near_the_bootstraps(rng):
    labels, values = draw(rng, 300, 200)
    low, high = intervals(resampled_metrics(labels, stats.rankdata(values) / 500, 2000, rng))["auc"]
    assert auc_and_interval(labels, values)[1] == pytest.approx((low, high), abs=0.012)


def test_the_interval_covers(rng):
    """The true area of two normals of one deviation is known; 400 draws miss it in about 5 %."""
    truth = stats.norm.cdf(1 / np.sqrt(2))
    missed = 0
    for _ in range(400):
        values = np.concatenate([rng.normal(0, 1, 40), rng.normal(1, 1, 30)])
        low, high = auc_and_interval(np.repeat([0, 1], [40, 30]), values)[1]
        missed += not low <= truth <= high
    assert missed <= stats.binom.ppf(1 - 1e-6, 400, 0.06)


def test_perfect_separation_is_not_certain(rng):
    for reals, fakes in ((4, 9), (9, 4)):
        labels = np.repeat([0, 1], [reals, fakes])
        auc, (low, high) = auc_and_interval(labels, labels * 2.5)
        # Four independent pairs, all in the right order.
        assert (auc, high) == (1, 1)
        assert low == pytest.approx(0.025 ** (1 / 4), abs=1e-9)
    auc, (low, high) = auc_and_interval([0, 0, 1, 1], [3, 3, 3, 3])
    assert auc == 0.5
    assert low < 0.1
    assert high > 0.9


def test_strata_are_compared_within(rng):
    labels, values = draw(rng, 60, 50, levels=2)
    strata = rng.integers(0, 4, 110)
    auc, (low, high) = auc_and_interval(labels, values + 1e9 * strata, strata)
    parts = [strata == stratum for stratum in range(4)]
    pairs = [labels[part].sum() * (1 - labels[part]).sum() for part in parts]
    expected = [roc_auc_score(labels[part], values[part]) for part in parts]
    assert auc == pytest.approx(np.average(expected, weights=pairs), abs=1e-9)
    assert low < auc < high
    # One stratum is all; a stratum of one label takes no part.
    assert auc_and_interval(labels, values, np.full(110, 7)) == auc_and_interval(labels, values)
    more = np.concatenate([values, [1e9, 1e9]])
    found = auc_and_interval(np.append(labels, [0, 0]), more, np.repeat([3, 8], [110, 2]))
    assert found == auc_and_interval(labels, values)
    assert auc_and_interval([0, 1], [1, 2], [0, 1]) is None


def test_one_label_has_no_area():
    assert auc_and_interval([1, 1], [1, 2]) is None
    assert auc_and_interval([], []) is None
