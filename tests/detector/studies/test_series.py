"""Series of runs: what is trained, what is recorded, and that nothing is done twice."""

import json
from dataclasses import replace

import pytest

from detector.data import DataError
from detector.evaluation.results import read_results
from detector.models import load_checkpoint
from detector.studies import runs, series
from detector.studies.ablation import RESIDUALS, ablation
from detector.studies.diversity import diversity, nested_classes
from detector.studies.series import Outcome, Published, Series, as_table
from detector.training.recipes import CNNDETECTION, DEFAULT
from detector.training.trainer import TrainConfig
from tests.detector.training.folders import make_split

RECIPE = DEFAULT.changed(crop=16, batch_size=8, epochs=1)
CLASSES = ("cat", "dog", "elk")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes to train on, two generators to test on."""
    root = tmp_path_factory.mktemp("data")
    for i, name in enumerate(CLASSES):
        make_split(root / "train" / name, 4 + i, seed=10 + i)
        make_split(root / "val" / name, 2, seed=20 + i)
    for i, name in enumerate(("alpha", "beta")):
        make_split(root / "test" / name, 3, seed=30 + i)
    return root


@pytest.fixture
def config(data, tmp_path):
    return TrainConfig(str(data), str(tmp_path / "study"), RECIPE)


class Counted:
    """A function that remembers what its calls were about."""

    def __init__(self, monkeypatch, module, name, about):
        self.calls, self._function, self._about = [], getattr(module, name), about
        monkeypatch.setattr(module, name, self)

    def __call__(self, *args, **options):
        self.calls.append(self._about(*args, **options))
        return self._function(*args, **options)


def test_nested_classes():
    names = [f"class{i}" for i in range(20)]
    subsets = nested_classes(names, (16, 2, 20, 4, 8), seed=3)
    assert list(subsets) == [2, 4, 8, 16, 20]
    for small, large in zip(subsets.values(), list(subsets.values())[1:], strict=False):
        assert large[: len(small)] == small
    assert sorted(subsets[20]) == sorted(names)
    assert nested_classes(names[::-1], (2,), seed=3) == {2: subsets[2]}  # not the order in which they are found
    assert len({nested_classes(names, (3,), seed=seed)[3] for seed in range(8)}) > 4
    assert nested_classes(CLASSES, (1, 2), order=("elk", "cat")) == {1: ("elk",), 2: ("elk", "cat")}


@pytest.mark.parametrize(
    ("categories", "options", "error", "message"),
    [
        ((), {}, DataError, "D names no classes to train on"),
        (CLASSES, {"counts": (2, 4)}, DataError, "4 classes are asked for, D gives 3: cat, dog, elk"),
        (CLASSES, {"counts": (0, 1)}, ValueError, "must be at least 1, got 0, 1"),
        (CLASSES, {"counts": ()}, ValueError, "must be at least 1, got none"),
        (CLASSES, {"order": ("cat", "cow")}, DataError, "no class cow in D; there are cat, dog, elk"),
        (CLASSES, {"order": ("cat", "cat")}, ValueError, "named twice: cat, cat"),
    ],
)
def test_impossible_classes(categories, options, error, message):
    with pytest.raises(error, match=message):
        nested_classes(categories, **({"counts": (1, 2), "data": "D"} | options))


def test_diversity(config, data, tmp_path):
    result = diversity(config, (3, 1), order=("dog", "elk", "cat"), command="npr diversity", verbose=False)
    assert [outcome.name for outcome in result.outcomes] == ["1 class", "3 classes"]
    assert [outcome.what["classes"] for outcome in result.outcomes] == [["dog"], ["dog", "elk", "cat"]]
    assert [outcome.training_images for outcome in result.outcomes] == [10, 30]
    for outcome in result.outcomes:
        assert list(outcome.generators) == ["alpha", "beta"]
        for rate in ("accuracy", "average_precision"):
            rates = [generator[rate] for generator in outcome.generators.values()]
            assert getattr(outcome, rate) == pytest.approx(sum(rates) / 2)
    (recorded,) = read_results(tmp_path / "study/diversity.json")
    assert recorded == result.to_dict()
    assert recorded["kind"] == "diversity"
    assert Series.from_dict(json.loads(json.dumps(recorded))) == result


def test_finished_runs_are_not_done_again(config, monkeypatch, tmp_path):
    trained = Counted(monkeypatch, series, "train_unless_done", lambda config, **_: config.classes)
    measured = Counted(monkeypatch, runs, "evaluate", lambda model, collection, **_: len(collection))
    steps = Counted(monkeypatch, runs, "train", lambda config, resume, **_: resume)

    def killed(weights, collection, path, **options):
        if "classes-02" in str(path):
            raise KeyboardInterrupt
        return runs.evaluate_unless_done(weights, collection, path, **options)

    monkeypatch.setattr(series, "evaluate_unless_done", killed)
    with pytest.raises(KeyboardInterrupt):
        diversity(config, (1, 2, 3), verbose=False)
    assert (len(trained.calls), len(measured.calls)) == (2, 1)
    assert [outcome["name"] for outcome in read_results(tmp_path / "study/diversity.json")[0]["outcomes"]] == [
        "1 class"
    ]
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / "study").glob("*/best.safetensors")}
    assert len(weights) == 2

    monkeypatch.setattr(series, "evaluate_unless_done", runs.evaluate_unless_done)
    result = diversity(config, (1, 2, 3), verbose=False)
    assert steps.calls == [False, False, True, True, False]
    assert len(measured.calls) == 3  # two more
    assert all(path.stat().st_mtime_ns == time for path, time in weights.items())
    assert diversity(config, (1, 2, 3), verbose=False) == result
    assert len(measured.calls) == 3


def test_other_images_are_measured_anew(config, data, monkeypatch, tmp_path):
    measured = Counted(monkeypatch, runs, "evaluate", lambda model, collection, **_: len(collection))
    diversity(config, (1,), verbose=False)
    make_split(tmp_path / "other" / "gamma", 2, 9)
    result = diversity(config, (1,), test=str(tmp_path / "other"), verbose=False)
    assert measured.calls == [12, 4]
    assert list(result.outcomes[0].generators) == ["gamma"]


def test_another_study_is_in_the_way(config):
    diversity(config, (1,), order=CLASSES, verbose=False)
    with pytest.raises(ValueError, match=r"cannot resume .*classes-01, which was started with classes \('cat',\), not"):
        diversity(config, (1,), order=CLASSES[::-1], verbose=False)


def test_nothing_to_test_on(config, tmp_path):
    make_split(tmp_path / "train/cat", 2, 1)
    with pytest.raises(DataError, match=r"no test split in .*; --test names other images"):
        diversity(replace(config, data=str(tmp_path)), (1,), verbose=False)


@pytest.mark.slow
def test_ablation(config, tmp_path):
    result = ablation(config, verbose=False)
    assert [outcome.name for outcome in result.outcomes] == list(RESIDUALS)
    folders = [path.parent for path in (tmp_path / "study").glob("*/best.safetensors")]
    models = {folder.name: load_checkpoint(folder / "best.safetensors") for folder in folders}
    assert {(model.conv1.patch, model.conv1.anchor, model.conv1.mode) for model in models.values()} == {
        (2, 0, "pixel"), (2, 1, "pixel"), (2, 2, "pixel"), (2, 3, "pixel"),
        (4, 0, "pixel"), (8, 0, "pixel"), (2, 0, "mean"), (2, 0, "max"),
    }  # fmt: skip
    assert len({outcome.digest for outcome in result.outcomes}) == len(RESIDUALS)
    assert read_results(tmp_path / "study/ablation.json") == [result.to_dict()]


def test_ablation_needs_a_residual(config):
    with pytest.raises(ValueError, match="recipe cnndetection trains a CNNDetector"):
        ablation(replace(config, recipe=CNNDETECTION), verbose=False)


def by_hand():
    outcomes = [
        Outcome("2 classes", {"classes": ["a", "b"]}, 40, 0.5, 0.75, {"g": {"accuracy": 0.5}}, "d"),
        Outcome("3 classes", {"classes": ["a", "b", "c"]}, 60, None, None, {}, "e"),
    ]
    published = Published("A paper, Table 1", {"2 classes": 0.813})
    return Series("diversity", "Title", "trained on", "Held.", "d", "t", {}, 0, "Simulated!", outcomes, published)


def test_the_table(capsys):
    from rich.console import Console

    Console(width=100).print(as_table(by_hand()))
    text = capsys.readouterr().out
    rows = [line.replace("│", " ").split() for line in text.splitlines() if "classes" in line]
    assert rows == [["2", "classes", "40", "50.0", "75.0", "81.3"], ["3", "classes", "60", "-", "-", "-"]]
    assert all(note in text for note in ("Title", "Held.", "A paper, Table 1", "Simulated!"))


def test_damaged_results():
    values = by_hand().to_dict()
    assert Series.from_dict(values) == by_hand()
    for broken in ({}, values | {"outcomes": [{}]}, values | {"outcomes": 3}, values | {"published": {"x": 1}}):
        with pytest.raises(ValueError, match="damaged result of a study"):
            Series.from_dict(broken)
