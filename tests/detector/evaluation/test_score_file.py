"""Measurements that are ended in the middle and go on from their file of scores."""

import json
from contextlib import suppress

import pytest

from detector.data import Delivery, find_images
from detector.evaluation import ScoreFile, evaluate, measure_truth, robustness, score_collection
from detector.evaluation.robustness import Degrade, condition
from tests.detector.evaluation.stub import Roughness, make_tree


class Ended(BaseException):
    """As a signal ends a measurement."""


class Mortal(Roughness):
    """Ends after so many images."""

    def __init__(self, lives):
        super().__init__()
        self.lives = lives

    def features(self, images):
        if self.calls >= self.lives:
            raise Ended
        return super().features(images)


@pytest.fixture
def data(tmp_path, rng):
    make_tree(tmp_path / "data", ["alpha", "beta"], rng, count=3)
    (tmp_path / "data/alpha/0_real/bad.png").write_bytes(b"no image")
    return find_images(tmp_path / "data")


MEASUREMENTS = {
    "evaluate": lambda model, data, file: evaluate(model, data, resume=file, workers=2, bootstrap=10).to_dict(),
    "truth": lambda model, data, file: measure_truth(
        model, data, (), [Delivery.parse("none"), Delivery.parse("crop:16")], resume=file
    ).to_dict(),
    "robustness": lambda model, data, file: robustness(
        model, data, sweeps={"noise": [0, 8], "blur": [1]}, resume=file
    ).to_dict(),
}
TIMES_SCORED = {"evaluate": 1, "truth": 2, "robustness": 3}


@pytest.mark.parametrize("name", MEASUREMENTS)
def test_goes_on_where_it_was_ended(data, tmp_path, name):
    """As often as it takes; the result is that of a measurement never ended, and no score in the file is made again:
    only the few that were under way."""
    measure = MEASUREMENTS[name]
    straight = Roughness()
    expected = measure(straight, data, None) | {"detector": "Mortal"}
    assert straight.calls == 12 * TIMES_SCORED[name]
    calls, ends, found = 0, -1, None
    while found is None:
        model = Mortal(5)
        ends += 1
        with ScoreFile(tmp_path / "s.jsonl", [model]) as file, suppress(Ended):
            found = measure(model, data, file)
        calls += model.calls
    assert found["architecture"].pop("name") == "Mortal"
    assert expected["architecture"].pop("name") == "Roughness"
    assert found == expected
    assert ends >= 2
    assert straight.calls <= calls <= straight.calls + 4 * ends
    with ScoreFile(tmp_path / "s.jsonl", [Mortal(0)]) as file:
        measure(Mortal(0), data, file)  # nothing is left to score
    lines = [json.loads(line) for line in (tmp_path / "s.jsonl").open()]
    assert len(lines) == 13 * TIMES_SCORED[name]
    assert sum(line.get("error", "").startswith("is not an image") for line in lines) == TIMES_SCORED[name]


def test_another_treatment_is_scored_anew(data, tmp_path):
    """And one that draws by the image's place in the collection, where that is another."""
    model = Roughness()
    with ScoreFile(tmp_path / "s", [model]) as file:
        for transform, scored in (
            (None, 12),
            (None, 0),
            (Degrade(condition("noise", 4), 0), 12),
            (Degrade(condition("noise", 4), 1), 12),
            (Degrade(condition("noise", 4), 1), 0),
        ):
            model.calls = 0
            score_collection(model, data, transform=transform, resume=file)
            assert model.calls == scored
        beta = data.select(generators=["beta"])
        model.calls = 0
        alone = score_collection(model, beta, transform=Degrade(condition("noise", 4), 1), resume=file)
        assert model.calls == 6
        assert alone == score_collection(model, beta, transform=Degrade(condition("noise", 4), 1))
        model.calls = 0
        score_collection(model, beta, resume=file)
        assert model.calls == 0


def test_two_detectors_share_a_file_and_a_third_is_refused(data, tmp_path):
    first, second, third = Roughness(), Roughness(slope=-0.1), Roughness(slope=-0.3)
    with ScoreFile(tmp_path / "s", [first, second]) as file:
        both = [score_collection(model, data, resume=file) for model in (first, second)]
        assert both[0].scores != both[1].scores
    with ScoreFile(tmp_path / "s", [second, first]) as file:
        assert [score_collection(model, data, resume=file) for model in (first, second)] == both
    before = (tmp_path / "s").read_bytes()
    with pytest.raises(ValueError, match=r"s: its results are of another model, [0-9a-f]{64}, not "):
        ScoreFile(tmp_path / "s", [third])
    with pytest.raises(ValueError, match="its results are of another model"):
        ScoreFile(tmp_path / "s", [first])
    assert (tmp_path / "s").read_bytes() == before


@pytest.mark.parametrize("name", ["decoder", "versions"])
def test_another_decoder_or_version_is_refused(data, tmp_path, name):
    model = Roughness()
    with ScoreFile(tmp_path / "s", [model]) as file:
        score_collection(model, data, resume=file)
    lines = [json.loads(line) | {name: "1"} for line in (tmp_path / "s").open()]
    (tmp_path / "s").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match=f"s: its results are of another {name}, 1, not "):
        ScoreFile(tmp_path / "s", [model])
