"""`npr study` from photographs to the report, on very little; and what it says of bad input."""

import csv
import json
import re

import pytest

from detector.cli import main
from detector.studies import study
from detector.studies.study import Size

FAMILIES = ("nearest", "transposed-k3")
TINY = Size(
    scenes=8, side=64, train_count=12, count=3, npr_epochs=1, cnn_epochs=1, bootstrap=20, robustness_count=1,
    families=FAMILIES,
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def figures():
    pytest.importorskip("matplotlib")


@pytest.mark.slow
def test_from_nothing_to_a_report(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "QUICK", TINY)
    out = tmp_path / "study"
    assert main(["study", "--quick", "--out", str(out), "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    assert captured.out.endswith(f"{out}/report.html\n")
    assert "stage 6 of 6, report" in captured.err
    evaluations = json.loads((out / "evaluation.json").read_text())
    assert [result["detector"] for result in evaluations] == ["NPR", "CNNDetection"]
    for result in evaluations:
        assert [row["generator"] for row in result["generators"]] == sorted(FAMILIES)
        assert "simulated" in result["simulated"]
    robustness = json.loads((out / "robustness.json").read_text())
    assert [result["kind"] for result in robustness] == ["robustness"] * 2
    rows = list(csv.reader((out / "evaluation.csv").read_text().splitlines()))
    assert any("nearest" in row for row in rows)
    trainings = json.loads((out / "study.json").read_text())["trainings"]
    assert {name: training["start"] for name, training in trainings.items()} == {
        "NPR": "random weights",
        "CNNDetection": "random weights",
    }
    page = re.sub("</?span>", "", (out / "report.html").read_text())
    for text in ("simulated", "transposed-k3", "CNNDetection", "random weights", "npr synth --suite 28"):
        assert text in page

    files = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert main(["study", "--quick", "--out", str(out), "--device", "cpu"]) == 0
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == files


def test_bad_input_is_one_line(tmp_path, capsys):
    out = tmp_path / "study"
    assert main(["study", "--out", str(out), "--device", "abacus"]) == 1
    assert capsys.readouterr().err.startswith("npr: error: --device abacus: no such device")
    assert not out.exists()
    out.touch()
    assert main(["study", "--out", str(out)]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_stage_that_fails_says_why(tmp_path, capsys):
    assert main(["study", "--out", str(tmp_path / "study"), "--photos", str(tmp_path / "none")]) == 1
    error = capsys.readouterr().err
    assert "none does not exist" in error
    assert "stage 1 of 6, simulate: exit status 1" in error
