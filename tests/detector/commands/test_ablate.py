"""`npr ablate`: table and JSON."""

import json

from detector.cli import main
from detector.studies import ablation
from detector.studies.ablation import RESIDUALS
from tests.detector.training.folders import make_data, make_split

OPTIONS = ("--epochs", "1", "--crop", "16", "--batch-size", "8", "--device", "cpu")


def test_a_study(tmp_path, monkeypatch, capsys):
    chosen = {name: RESIDUALS[name] for name in ("l = 2, j = 1", "l = 4, j = 1", "l = 2, mean")}
    monkeypatch.setattr(ablation, "RESIDUALS", chosen)
    make_data(tmp_path / "data")
    make_split(tmp_path / "test/alpha", 3, 7)
    arguments = ["ablate", str(tmp_path / "data"), "--test", str(tmp_path), "--out", str(tmp_path / "out"), *OPTIONS]
    assert main(arguments) == 0
    table = capsys.readouterr().out
    assert all(name in table for name in chosen)
    result = json.loads((tmp_path / "out/ablation.json").read_text())
    assert result["kind"] == "ablation"
    assert [outcome["what"] for outcome in result["outcomes"]] == list(chosen.values())
    assert result["published"] is None
    assert main(arguments) == 0
    assert capsys.readouterr().out == table
    assert main([*arguments, "--classes", "cat"]) == 1  # another study is in the way
    assert "which was started with classes None, not ('cat',)" in capsys.readouterr().err


def test_bad_input(tmp_path, capsys):
    make_data(tmp_path / "data")
    out = str(tmp_path / "out")
    assert main(["ablate", str(tmp_path / "data"), "--out", out, *OPTIONS]) == 1
    assert "no test split" in capsys.readouterr().err
    make_split(tmp_path / "data/test/alpha", 2, 7)
    assert main(["ablate", str(tmp_path / "data"), "--out", out, "--recipe", "cnndetection"]) == 1
    assert "recipe cnndetection trains a CNNDetector" in capsys.readouterr().err
