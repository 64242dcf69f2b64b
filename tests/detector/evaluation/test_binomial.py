import numpy as np
import pytest
from scipy.stats import beta, binom, binomtest

from detector.evaluation import clopper_pearson


def cases(rng, count):
    """Shares of all sizes, the ends among them."""
    for _ in range(count):
        trials = int(10 ** rng.uniform(0, 4))
        yield int(rng.integers(0, trials + 1)), trials
        yield int(rng.integers(0, min(trials, 4) + 1)), trials
        yield 0, trials
        yield trials, trials


def test_equals_scipy(rng):
    for successes, trials in cases(rng, 100):
        level = float(rng.uniform(0.5, 0.999))
        expected = binomtest(successes, trials).proportion_ci(level, method="exact")
        assert clopper_pearson(successes, trials, level) == pytest.approx(tuple(expected), rel=1e-7, abs=1e-12)


def test_is_of_95_percent_and_of_many_trials():
    low, high = clopper_pearson(3000, 1_000_000)
    assert low == pytest.approx(beta.ppf(0.025, 3000, 997_001), rel=1e-8)
    assert high == pytest.approx(beta.ppf(0.975, 3001, 997_000), rel=1e-8)


def test_known_ends():
    """Without successes, the upper end solves (1 - p)^n = 2.5 %."""
    low, high = clopper_pearson(0, 50)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 50), rel=1e-12)
    assert clopper_pearson(50, 50) == pytest.approx((1 - high, 1), rel=1e-12)
    assert clopper_pearson(0, 0) is None


def test_holds_the_truth_as_often_as_promised(rng):
    """Summed over all outcomes, not sampled."""
    trials = int(rng.integers(5, 60))
    intervals = np.array([clopper_pearson(successes, trials, 0.9) for successes in range(trials + 1)])
    for share in rng.random(5):
        chances = binom.pmf(np.arange(trials + 1), trials, share)
        held = (intervals[:, 0] <= share) & (share <= intervals[:, 1])
        assert chances[held].sum() >= 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 5), "successes must be in 0..trials, got -1 of 5"),
        ((6, 5), "got 6 of 5"),
        ((1, 5, 1.0), "level must be between 0 and 1, got 1.0"),
        ((1, 5, float("nan")), "got nan"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        clopper_pearson(*arguments)
