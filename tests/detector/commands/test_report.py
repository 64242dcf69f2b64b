"""`npr report`: from files of results to a page."""

import json

import numpy as np
import pytest

from detector.cli import main
from detector.data import find_images
from detector.evaluation import evaluate, robustness, write_results
from tests.detector.evaluation.stub import Roughness, make_tree

pytest.importorskip("matplotlib", reason="reports need matplotlib")


@pytest.fixture
def files(tmp_path):
    collection = find_images(make_tree(tmp_path / "data", ["alpha"], np.random.default_rng()))
    model = Roughness()
    write_results(tmp_path / "e.json", [evaluate(model, collection, name=name).to_dict() for name in "ab"])
    write_results(tmp_path / "r.json", [robustness(model, collection, sweeps={"blur": [1]}).to_dict()])
    return [str(tmp_path / "e.json"), str(tmp_path / "r.json")]


def test_page(files, tmp_path, capsys):
    out = str(tmp_path / "page.html")
    assert main(["report", *files, "--out", out, "--title", "My <page>"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<h1>My &lt;page&gt;</h1>" in text
    assert "Gaussian blur" in text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        (json.dumps({"a": 1}), "no result of npr"),
        (json.dumps({"kind": "tea"}), "kind tea; known are"),
        (json.dumps({"kind": "evaluation"}), "does not say its"),
        ("\x00\x01", "no JSON"),
    ],
)
def test_bad_files(content, message, files, tmp_path, capsys):
    (tmp_path / "bad.json").write_text(content)
    assert main(["report", *files, str(tmp_path / "bad.json"), "--out", str(tmp_path / "page.html")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_missing_file_and_folder(files, tmp_path, capsys):
    assert main(["report", str(tmp_path / "no.json"), "--out", str(tmp_path / "page.html")]) == 1
    assert "no.json: No such file" in capsys.readouterr().err
    assert main(["report", *files, "--out", str(tmp_path / "no" / "page.html")]) == 1
    assert "there is no folder" in capsys.readouterr().err
