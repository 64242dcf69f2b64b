"""`npr eval`: presets, several detectors, subsets and reports. Its plain use is in test_commands.py."""

import csv
import io
import json

import numpy as np
import pytest
import torch

from detector.cli import main
from detector.data import Preprocessing
from detector.evaluation import Evaluation
from detector.models import NPRDetector, save_checkpoint
from tests.detector.evaluation.stub import make_tree

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs/first/best.safetensors and runs/second.safetensors"""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "first").mkdir()
    for seed, name in enumerate(("first/best.safetensors", "second.safetensors")):
        torch.manual_seed(seed)
        save_checkpoint(folder / name, NPRDetector(Preprocessing(crop=16)))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folders = ["progan/cat", "progan/dog", "biggan", "crn"]
    return make_tree(tmp_path_factory.mktemp("data") / "set", folders, np.random.default_rng(0), size=(16, 16))


def status_of(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def test_preset(data, runs, capsys, tmp_path):
    out = tmp_path / "r.json"
    status = status_of(
        "eval", data, "--preset", "forensynths-8", "--policy", "native", "--weights", runs / "first", "--json", out
    )
    captured = capsys.readouterr()
    assert status == 0
    assert "6 of 8 generators are missing (StyleGAN, StyleGAN2, CycleGAN, StarGAN, GauGAN, Deepfake)" in captured.err
    assert "99.8" in captured.out  # NPR's published accuracy on ProGAN
    assert "Table 1" in captured.out
    assert "crn" not in captured.out.lower()
    evaluation = Evaluation.from_dict(json.loads(out.read_text()))
    assert list(evaluation.rows) == ["ProGAN", "BigGAN"]
    origin = evaluation.provenance
    assert (origin.preset, origin.detector, origin.preprocessing["policy"]) == ("forensynths-8", "first", "native")
    assert origin.kinds["ProGAN"] == "GAN"
    assert origin.command.startswith(f"npr eval {data} --preset forensynths-8")


def test_rule_of_a_preset(data, runs, tmp_path):
    out = tmp_path / "r.json"
    arguments = ["--preset", "forensynths-8", "--limit", "1", "--generators", "BigGAN", "--json", out]
    assert status_of("eval", data, "--weights", runs / "first", *arguments) == 0
    treatment = json.loads(out.read_text())["preprocessing"]
    assert (treatment["policy"], treatment["resize"]) == ("resize", 256)


def test_several_detectors(data, runs, capsys, tmp_path):
    weights = [runs / "first", f"other={runs}/second.safetensors"]
    files = ["--csv", "-", "--json", tmp_path / "r.json", "--html", tmp_path / "r.html"]
    assert status_of("eval", data, "--weights", *weights, "--limit", "1", "--bootstrap", "5", *files) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["detector"] for row in rows if row["generator"] == "mean"] == ["first", "other"]
    assert [row["images"] for row in rows if row["generator"] == "biggan"] == ["2", "2"]
    assert rows[0]["accuracy_low"]
    results = json.loads((tmp_path / "r.json").read_text())
    assert [result["detector"] for result in results] == ["first", "other"]
    assert results[0]["digest"] != results[1]["digest"]
    assert "other" in (tmp_path / "r.html").read_text()


def test_by_class(data, runs, capsys):
    assert status_of("eval", data, "--weights", runs / "first", "--by", "class") == 0
    assert "dog" in capsys.readouterr().out


def test_list_presets(capsys):
    assert status_of("eval", "--list-presets") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("forensynths-8", "genimage-8", "sdv1_new", "published: NPR"))


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ["--weights", "{runs}/first", "--preset", "imagenet"],
            1,
            "unknown preset 'imagenet'; there are forensynths-8",
        ),
        (["--weights", "{runs}/first", "--preset", "gangen-9"], 1, "no generator of GANGen-Detection"),
        (["--weights", "{runs}/first", "{runs}/first"], 2, "two are called first; write NAME=FILE"),
        (["--weights", "{runs}/first", "--limit", "0"], 2, "must be at least 1, got 0"),
        (["--weights", "{runs}/first", "--classes", "bird"], 1, "no class bird"),
        (["--weights", "{runs}/first", "--html", "{runs}/no/x.html"], 1, "there is no folder"),
        (["--weights", "{runs}/first", "x={runs}/none.pth"], 1, "none.pth: No such file"),
    ],
)
def test_bad_input(arguments, status, message, data, runs, capsys):
    assert status_of("eval", data, *(argument.format(runs=runs) for argument in arguments)) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
