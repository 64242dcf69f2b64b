"""The certified threshold: the rule against SciPy, and the guarantee by simulation and by exact distributions."""

import numpy as np
import pytest

from detector.evaluation.binomial import clopper_pearson, upper_bound
from detector.evaluation.calibration_threshold import (
    TooFewError,
    certified_rank,
    certified_threshold,
    certified_thresholds,
    images_needed,
)

DRAWS = 1000
# A test of so many draws fails by chance once in a million runs.
CHANCE = 1e-6


def draw_rule(rng):
    return float(10 ** rng.uniform(-2.3, -0.5)), float(rng.uniform(0.5, 0.999))


def allowed_failures(confidence):
    """How many of DRAWS may miss a guarantee of that confidence."""
    binom = pytest.importorskip("scipy.stats", reason="needs SciPy").binom
    return binom.isf(CHANCE, DRAWS, 1 - confidence)


def test_rank_is_the_largest_that_binomial_allows(rng):
    binom = pytest.importorskip("scipy.stats", reason="needs SciPy").binom
    for _ in range(200):
        alpha, confidence = draw_rule(rng)
        images = int(10 ** rng.uniform(0, 5))
        rank = certified_rank(images, alpha, confidence)
        tail = 1 - confidence
        assert rank == 0 or binom.cdf(rank - 1, images, alpha) <= tail * (1 + 1e-9)
        assert binom.cdf(rank, images, alpha) > tail * (1 - 1e-9)


def test_rank_is_where_the_bound_passes_alpha(rng):
    """The order statistic of tolerance limits, and Clopper and Pearson's bound on the counted reals, are one rule."""
    for _ in range(50):
        alpha, confidence = draw_rule(rng)
        images = int(rng.integers(images_needed(alpha, confidence), 5000))
        rank = certified_rank(images, alpha, confidence)
        assert upper_bound(rank - 1, images, confidence) <= alpha * (1 + 1e-7)
        assert upper_bound(rank, images, confidence) > alpha * (1 - 1e-7)


def test_images_needed(rng):
    assert images_needed(0.01, 0.95) == 299
    assert images_needed(0.001, 0.95) == 2995
    assert images_needed(0.05, 0.95) == 59
    for _ in range(200):
        alpha, confidence = draw_rule(rng)
        needed = images_needed(alpha, confidence)
        assert certified_rank(needed, alpha, confidence) >= 1
        assert certified_rank(needed - 1, alpha, confidence) == 0


def test_ranks_grow_with_what_is_allowed():
    ranks = [certified_rank(images) for images in (298, 299, 472, 473, 10_000)]
    assert ranks == [0, 1, 1, 2, 84]
    assert certified_rank(10_000, confidence=0.5) == 100
    assert certified_rank(0) == 0


SCORES = {
    "continuous": (lambda rng, size: rng.random(size), lambda t: 1 - t),
    # Of 40 values, so that the threshold ties with many.
    "tied": (lambda rng, size: rng.integers(0, 40, size) / 40, lambda t: (39 - np.round(40 * t)) / 40),
    # Most reals at one score: a rate below alpha is possible only by calling none of these fake.
    "one value": (lambda rng, size: (rng.random(size) < 0.6) * 0.25, lambda t: np.where(t < 0.25, 0.6, 0.0)),
    "a few high": (
        lambda rng, size: np.where(rng.random(size) < 0.03, 1 - rng.random(size) / 9, rng.random(size) / 9),
        lambda t: np.where(t > 8 / 9, 0.27 * (1 - t), 0.03 + 0.97 * np.clip(1 - 9 * t, 0, 1)),
    ),
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(("alpha", "confidence"), [(0.01, 0.95), (0.05, 0.95), (0.1, 0.8)])
def test_the_rate_stays_below_alpha_as_often_as_promised(kind, alpha, confidence, rng):
    draw, true_rate = SCORES[kind]
    needed = images_needed(alpha, confidence)
    images = int(rng.integers(needed, 4 * needed))
    thresholds = np.array([certified_threshold(draw(rng, images), alpha, confidence).threshold for _ in range(DRAWS)])
    failures = (true_rate(thresholds) > alpha + 1e-12).sum()
    assert failures <= allowed_failures(confidence)
    if kind == "continuous":
        # And no more careful than it need be: fails as often as the rank's exact distribution says.
        beta = pytest.importorskip("scipy.stats", reason="needs SciPy").beta
        rank = certified_rank(images, alpha, confidence)
        expected = beta.sf(alpha, rank, images - rank + 1)
        binom = pytest.importorskip("scipy.stats", reason="needs SciPy").binom
        assert binom.cdf(failures, DRAWS, expected) > CHANCE
        assert binom.sf(failures - 1, DRAWS, expected) > CHANCE


@pytest.mark.parametrize("kind", SCORES)
def test_held_out_reals_called_fake(kind, rng):
    """Of one set, divided at random again and again. How many of the held-out reals lie above the threshold does not
    depend on the scores: their number is beta-binomial, or less where scores tie."""
    stats = pytest.importorskip("scipy.stats", reason="needs SciPy")
    alpha = 0.01
    images = int(rng.integers(2 * images_needed(alpha), 1500))
    half = images // 2
    held_out = images - half
    scores = SCORES[kind][0](rng, images)
    ties = len(np.unique(scores)) < images
    counts = []
    for _ in range(DRAWS):
        shuffled = rng.permutation(scores)
        counts.append((shuffled[half:] > certified_threshold(shuffled[:half], alpha).threshold).sum())
    rank = certified_rank(half, alpha)
    law = stats.betabinom(held_out, rank, half - rank + 1)
    # The last: rates whose own interval of 95 %, by Clopper and Pearson, lies above alpha.
    outside = next(count for count in range(held_out) if clopper_pearson(count, held_out)[0] > alpha)
    for most in (0, 1, int(alpha * held_out), outside - 1):
        exceeding = (np.array(counts) > most).sum()
        assert stats.binom.sf(exceeding - 1, DRAWS, law.sf(most)) > CHANCE
        assert ties or stats.binom.cdf(exceeding, DRAWS, law.sf(most)) > CHANCE
    assert law.sf(outside - 1) < 0.025


@pytest.mark.parametrize("groups", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_all_groups_at_once(groups, rng):
    """Groups of equal and of different scores: some group's rate exceeds alpha in no more draws than one alone may."""
    for spread in (0.0, 0.002, 0.5):
        powers = 1 + spread * np.arange(groups)  # scores U^(1/p), of which 1 - t^p lie above t
        sizes = rng.integers(299, 900, groups)
        failures = 0
        for _ in range(DRAWS):
            scores = {
                str(i): rng.random(size) ** (1 / power)
                for i, (size, power) in enumerate(zip(sizes, powers, strict=True))
            }
            threshold, _ = certified_thresholds(scores)
            failures += bool((1 - threshold**powers > 0.01).any())
        assert failures <= allowed_failures(0.95)


def test_is_the_lowest_threshold_with_so_few_above(rng):
    for distinct in (3, 30, 10**9):
        scores = rng.integers(0, distinct, int(rng.integers(299, 2000))) / distinct
        found = certified_threshold(scores)
        assert found.images == len(scores)
        assert found.threshold in scores
        assert found.called == (scores > found.threshold).sum() <= found.rank - 1
        assert (scores >= found.threshold).sum() >= found.rank
        if distinct == 10**9:
            assert found.called == found.rank - 1
        assert found.bound == upper_bound(found.rank - 1, len(scores)) <= 0.01
        assert certified_threshold(scores[::-1]) == found


def test_groups(rng):
    scores = {"low": rng.random(400) / 2, "high": 0.4 + rng.random(299) / 2}
    threshold, own = certified_thresholds(scores)
    assert threshold == own["high"].threshold == scores["high"].max()
    assert own == {name: certified_threshold(values) for name, values in scores.items()}
    with pytest.raises(
        TooFewError,
        match="group few: 298 reals cannot certify a rate of 1 % with 95 % confidence; that takes at least 299",
    ):
        certified_thresholds(scores | {"few": rng.random(298)})


def test_upper_bound_equals_scipy(rng):
    beta = pytest.importorskip("scipy.stats", reason="needs SciPy").beta
    for _ in range(100):
        trials = int(10 ** rng.uniform(0, 5))
        successes, confidence = int(rng.integers(0, trials)), float(rng.uniform(0.5, 0.999))
        expected = beta.ppf(confidence, successes + 1, trials - successes)
        assert upper_bound(successes, trials, confidence) == pytest.approx(expected, rel=1e-7)
        assert upper_bound(trials, trials, confidence) == 1
    assert upper_bound(0, 0) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: certified_threshold([0.1]), "1 real cannot certify a rate of 1 % .* at least 299"),
        (lambda: certified_threshold([]), "0 reals cannot certify"),
        (lambda: certified_threshold(np.zeros(58), 0.05, 0.95), "58 reals .* 5 % with 95 % .* at least 59"),
        (lambda: certified_threshold([[0.1]]), r"scores must be \[N\], got shape \[1, 1\]"),
        (lambda: certified_threshold([0.1, np.nan]), "scores must be finite, got nan"),
        (lambda: certified_rank(5, 0), "alpha must be between 0 and 1, got 0"),
        (lambda: certified_rank(5, float("nan")), "alpha must be between 0 and 1, got nan"),
        (lambda: certified_rank(5, 0.1, 1), "confidence must be at least 0.5 and below 1, got 1"),
        (lambda: images_needed(0.1, 0.3), "confidence must be at least 0.5 and below 1, got 0.3"),
        (lambda: certified_rank(-1), "images must not be negative, got -1"),
        (lambda: certified_thresholds({}), "at least one group"),
        (lambda: upper_bound(3, 2), "successes must be in 0..trials, got 3 of 2"),
        (lambda: upper_bound(1, 2, 0.4), "confidence must be at least 0.5 and below 1, got 0.4"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
