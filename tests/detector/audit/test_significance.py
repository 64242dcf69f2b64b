import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from detector.audit.significance import FOLDS, PERMUTATIONS, Categories, Ordered, holm, permutation_p, separation


def labels_of(reals, fakes, rng):
    return rng.permutation(np.repeat([False, True], [reals, fakes]))


def test_ordered_is_the_area_in_the_better_direction(rng):
    for sign in (1, -1):
        labels = labels_of(30, 20, rng)
        values = np.round(rng.normal(0, 2, 50) + sign * labels)
        column = Ordered(values)
        auc, (low, high) = separation(column, labels)
        expected = roc_auc_score(labels, values)
        assert auc == pytest.approx(max(expected, 1 - expected), abs=1e-12)
        assert low <= auc <= high
        assert column.fakes_higher(labels) == (expected >= 0.5)
        assert column.statistic(labels) == pytest.approx(abs(expected - 0.5) * 600, abs=1e-9)


def test_permutations_agree_with_all_orders(rng):
    """Of eight images, all 56 choices of three fakes."""
    labels = labels_of(5, 3, rng)
    column = Ordered(rng.integers(0, 4, 8).astype(float))
    least = column.statistic(labels)
    reached = 0
    for chosen in itertools.combinations(range(8), 3):
        every = np.zeros(8, bool)
        every[list(chosen)] = True
        reached += column.statistic(every) >= least - 1e-9
    p = permutation_p(column.statistic, labels, rng)
    # The early end after 20 makes large p-values coarse.
    assert p == pytest.approx(reached / 56, abs=4 * reached / 56 / np.sqrt(20))


def test_a_perfect_fact_has_the_smallest_p(rng):
    labels = labels_of(40, 40, rng)
    assert permutation_p(Ordered(labels * 1.0).statistic, labels, rng) == 1 / (PERMUTATIONS + 1)


@pytest.mark.parametrize("kind", ["numbers", "few categories", "many categories", "a rare category", "lopsided"])
def test_p_values_of_nothing_are_uniform(kind, rng):
    """The chance of p <= a is at most a, for ties, rare categories and few images of one label too."""
    reals, fakes = (200, 6) if kind == "lopsided" else (40, 30)
    images = reals + fakes
    ps = []
    for _ in range(200):
        labels = labels_of(reals, fakes, rng)
        if kind in ("numbers", "lopsided"):
            column = Ordered(rng.integers(0, 5, images).astype(float))
        else:
            if kind == "a rare category":
                names = np.where(rng.random(images) < 0.04, "rare", "common")
            else:
                names = rng.integers(0, 3 if kind == "few categories" else images, images).astype(str)
            column = Categories(names.tolist(), rng)
        ps.append(permutation_p(column.statistic, labels, rng, 99))
    for level in (0.05, 0.2):
        assert np.mean(np.array(ps) <= level) <= stats.binom.ppf(1 - 1e-6, 200, level) / 200


def test_holm_by_its_definition(rng):
    for _ in range(50):
        ps = rng.choice([0.001, 0.01, 0.02, 0.4, 1.0, *rng.random(4)], rng.integers(1, 9)).tolist()
        corrected = holm(ps)
        for level in rng.random(20):
            # Step down: the smallest must pass level / m, the next level / (m - 1), ... until one fails.
            passed = 0
            for i, p in enumerate(sorted(ps)):
                if p * (len(ps) - i) > level:
                    break
                passed += 1
            assert sum(p <= level for p in corrected) == passed
    assert holm([]) == []


def test_categories_are_scored_by_other_images(rng):
    """Every score follows from counts in the other folds, and the area from pairs within folds, by the definition."""
    labels = labels_of(50, 30, rng)
    names = rng.integers(0, 30, 80).astype(str)
    column = Categories(names.tolist(), rng)
    fold, scores = column.fold, column.scores(labels)
    assert sorted(np.bincount(fold)) == [80 // FOLDS] * FOLDS
    for i in range(80):
        others = fold != fold[i]
        same = others & (names == names[i])
        assert scores[i] == pytest.approx((labels[same].sum() + labels[others].mean()) / (same.sum() + 1), abs=1e-9)
    parts = [(fold == k) for k in range(FOLDS) if 0 < labels[fold == k].sum() < (fold == k).sum()]
    areas = [roc_auc_score(labels[part], scores[part]) for part in parts]
    pairs = [labels[part].sum() * (~labels[part]).sum() for part in parts]
    assert separation(column, labels)[0] == pytest.approx(np.average(areas, weights=pairs), abs=1e-12)


def test_categories_are_tested_by_chi_squared(rng):
    labels = labels_of(50, 30, rng)
    names = rng.integers(0, 5, 80)
    column = Categories(names.astype(str).tolist(), rng)

    def chi_squared(labels):
        return stats.chi2_contingency([np.bincount(names[labels == of], minlength=5) for of in (0, 1)]).statistic

    # (f - n s)^2 / n of each category, with s the share of fakes, by s (1 - s).
    share = labels.mean()
    for order in (labels, rng.permutation(labels)):
        expected = (column.statistic(order) - 80 * share**2) / (share * (1 - share))
        assert chi_squared(order) == pytest.approx(expected)
    reached = np.mean([chi_squared(rng.permutation(labels)) >= chi_squared(labels) - 1e-9 for _ in range(999)])
    p = permutation_p(column.statistic, labels, rng)
    assert p == pytest.approx(reached, abs=5 * np.sqrt(max(reached, 0.001) / 20))


def test_a_rare_category_has_its_exact_p(rng):
    """Three images that are all real, of 129 reals and 175 fakes: whatever folds are drawn."""
    labels = np.repeat([False, True], [129, 175])
    names = ["L"] * 3 + ["RGB"] * 301
    exact = stats.hypergeom.pmf(3, 304, 129, 3)
    for _ in range(5):
        p = permutation_p(Categories(names, rng).statistic, labels, rng)
        assert exact / 2.5 < p < exact * 2.5


def test_many_categories_are_no_better_than_few(rng):
    """As many names as images tell nothing of others; frequencies among the images themselves would be perfect."""
    labels = labels_of(100, 60, rng)
    unique = Categories([f"name {i}" for i in range(160)], rng)
    assert separation(unique, labels)[0] == 0.5
    twins = np.arange(160) // 2
    areas = [separation(Categories(rng.permutation(twins).astype(str).tolist(), rng), labels)[0] for _ in range(40)]
    assert np.mean(areas) == pytest.approx(0.5, abs=0.06)


def test_a_telling_category(rng):
    labels = labels_of(100, 100, rng)
    names = np.where(labels, "PNG", "JPEG")
    auc, (low, high) = separation(Categories(names.tolist(), rng), labels)
    assert (auc, high) == (1, 1)
    assert low > 0.95
    # Half of the fakes alone are told.
    half = np.where(labels & (rng.random(200) < 0.5), "PNG", "JPEG")
    auc, _ = separation(Categories(half.tolist(), rng), labels)
    assert auc == pytest.approx(0.5 + (half == "PNG").sum() / 200, abs=0.02)
