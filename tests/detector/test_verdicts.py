import math

import pytest

from detector.verdicts import check_threshold, threshold_text, verdict


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.5, "0.5"),
        (0.3125, "0.3125"),
        (1.25e-7, "1.25e-07"),
        (0.999999875, "0.999999875"),
        (0.9999999, "0.9999999"),
        (0.75, "0.75"),
        (0.99, "0.99"),
        (1.0, "1"),
        (0.0, "0"),
    ],
)
def test_threshold_text(value, text):
    assert threshold_text(value) == text


def test_text_tells_thresholds_from_the_ends(rng):
    for _ in range(200):
        value = 1 - float(10 ** rng.uniform(-15, -0.4))
        shown = float(threshold_text(value))
        assert shown < 1
        assert 1 - shown == pytest.approx(1 - value, rel=1e-5)
    assert float(threshold_text(math.nextafter(1, 0))) < 1


def test_verdict_is_strict():
    assert [verdict(score, 0.25) for score in (0.2, 0.25, 0.3)] == ["real", "real", "fake"]


@pytest.mark.parametrize("bad", [0, 1, -1, 2.0, True, None, "0.5", math.nan])
def test_what_is_no_threshold(bad):
    with pytest.raises(ValueError, match="threshold must be a number between 0 and 1"):
        check_threshold(bad)
