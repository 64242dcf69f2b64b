"""`npr diversity`: table, JSON and report, on three classes."""

import json

import pytest

from detector.cli import main
from tests.detector.training.folders import make_split


@pytest.fixture
def data(tmp_path):
    pytest.importorskip("matplotlib")
    for i, name in enumerate(("cat", "dog", "elk")):
        make_split(tmp_path / "data/train" / name, 4, seed=10 + i)
        make_split(tmp_path / "data/val" / name, 2, seed=20 + i)
    make_split(tmp_path / "data/test/alpha", 3, 5)
    return tmp_path / "data"


def run(*arguments):
    return main(["diversity", *map(str, arguments)])


OPTIONS = ("--recipe", "default", "--epochs", 1, "--crop", 16, "--batch-size", 8, "--device", "cpu")


def test_a_study_and_its_repetition(data, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = (data, "--out", out, "--counts", "1,2", "--seed", 5, *OPTIONS)
    assert run(*arguments) == 0
    table = capsys.readouterr().out
    assert "2 classes" in table
    assert "81.3" in table
    assert "Wang et al." in table
    result = json.loads((out / "diversity.json").read_text())
    assert (result["kind"], result["seed"], result["recipe"]["epochs"]) == ("diversity", 5, 1)
    assert result["command"].startswith("npr diversity ")
    assert "2 classes" in (out / "report.html").read_text()
    first = (out / "diversity.json").read_bytes()
    assert run(*arguments) == 0
    assert capsys.readouterr().out == table
    assert (out / "diversity.json").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--counts", "1,4"), 1, "4 classes are asked for, "),
        (("--classes", "cat,cow", "--counts", "1"), 1, "no class cow"),
        (("--counts", "0"), 2, "must be at least 1, got 0"),
        (("--counts", "two"), 2, "must be a whole number, got 'two'"),
        (("--imagenet", "x.pth", "--counts", "1"), 1, "imagenet weights are a ResNet-50's"),
        (("--device", "abacus"), 1, "no such device"),
    ],
)
def test_bad_input(data, tmp_path, capsys, arguments, status, message):
    try:
        actual = run(data, "--out", tmp_path / "out", *OPTIONS, *arguments)
    except SystemExit as exit:
        actual = exit.code
    assert actual == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert not (tmp_path / "out").exists()


def test_data_without_classes(tmp_path, capsys):
    make_split(tmp_path / "data", 2, 1)
    assert run(tmp_path / "data", "--out", tmp_path / "out", "--test", tmp_path / "data", *OPTIONS) == 1
    assert "names no classes to train on" in capsys.readouterr().err
