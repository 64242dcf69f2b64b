"""npr explain, npr rank and npr spectrum: what they print, what they write, and their exit status."""

import json

import numpy as np
import pytest
from PIL import Image

from detector.cli import main
from detector.models import load_checkpoint, save_checkpoint
from tests import needs
from tests.detector.training.folders import make_split

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Five images of falling contrast, one of them of the same name in a subfolder, and a broken one."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deep").mkdir()
    rng = np.random.default_rng(0)
    for i, name in enumerate(["a.png", "b.png", "c.jpg", "deep/a.png", "deep/d.png"]):
        Image.fromarray((rng.integers(0, 256, (24 + i, 30, 3)) / (i + 1)).astype(np.uint8)).save(folder / name)
    (folder / "broken.png").write_bytes(b"\x89PNG")
    return folder


def run(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def scores_of_detect(capsys, pictures, weights):
    _, out, _ = run(capsys, "detect", pictures, "--weights", weights, "--json")
    return {line["path"]: line["score"] for line in map(json.loads, out.splitlines()) if "score" in line}


def test_explain(pictures, weights, tmp_path, capsys):
    expected = scores_of_detect(capsys, pictures, weights)
    status, out, _ = run(capsys, "explain", pictures, "--weights", weights, "--out", tmp_path / "why", "--json")
    assert status == 1
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["path"].removeprefix(f"{pictures}/") for line in lines if "error" in line] == ["broken.png"]
    drawn = {line["path"]: line for line in lines if "error" not in line}
    assert {path: line["score"] for path, line in drawn.items()} == expected  # bit for bit
    assert sorted(file.name for file in (tmp_path / "why").iterdir()) == [
        "a-2.png", "a.png", "b.png", "c.png", "d.png",
    ]  # fmt: skip
    assert drawn[f"{pictures}/deep/a.png"]["picture"] == str(tmp_path / "why/a-2.png")


def test_explain_keeps_the_detectors_threshold(pictures, weights, tmp_path, capsys):
    picture, own = pictures / "a.png", tmp_path / "own.safetensors"
    score = scores_of_detect(capsys, picture, weights)[str(picture)]
    model = load_checkpoint(weights)
    for threshold, verdict in ((score / 2, "fake"), ((1 + score) / 2, "real")):
        model.threshold = threshold
        save_checkpoint(own, model)
        _, out, _ = run(capsys, "explain", picture, "--weights", own, "--out", tmp_path, "--json")
        line = json.loads(out)
        assert (line["threshold"], line["verdict"]) == (threshold, verdict)


def test_explain_as_text(pictures, weights, tmp_path, capsys):
    files = [pictures / "a.png", pictures / "broken.png"]
    arguments = ["explain", *files, "--weights", weights, "--out", tmp_path, "--no-unsure"]
    status, out, err = run(capsys, *arguments)
    assert status == 1
    assert out.endswith(f"{pictures}/a.png -> {tmp_path}/a.png\n")
    assert out.count("\n") == err.count("\n") == 1
    assert err.startswith(f"npr: {pictures}/broken.png: ")


def test_rank(pictures, weights, tmp_path, capsys):
    expected = scores_of_detect(capsys, pictures, weights)
    status, out, _ = run(
        capsys, "rank", pictures, "--weights", weights, "--sheet", tmp_path / "s.png", "--count", 2, "--json"
    )
    assert status == 1
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[-1].keys() == {"path", "error"}
    scores = [line["score"] for line in lines[:-1]]
    assert scores == sorted(scores, reverse=True)
    assert [line["rank"] for line in lines[:-1]] == [1, 2, 3, 4, 5]
    assert {line["path"]: line["score"] for line in lines[:-1]} == pytest.approx(expected, abs=1e-6)
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.size[1] == 2 * (30 + 160 + 18 + 8) + 8  # two headings, each over one row

    status, out, _ = run(capsys, "rank", pictures / "a.png", "--weights", weights, "--sheet", tmp_path / "one.png")
    assert status == 0
    head, row = out.splitlines()
    assert head.split() == ["rank", "score", "verdict", "path"]
    assert row.split()[0] == "1"
    assert (tmp_path / "one.png").exists()


@needs.extension
def test_rank_on_8_bits_has_the_scores_that_detect_has(pictures, weights, tmp_path, capsys):
    path = tmp_path / "r.jsonl"
    eight = ["--weights", weights, "--precision", "int8"]
    _, out, _ = run(capsys, "detect", pictures, *eight, "--exact", "--json")
    expected = {line["path"]: line["score"] for line in map(json.loads, out.splitlines()) if "score" in line}
    _, out, _ = run(capsys, "rank", pictures, *eight, "--json", "--resume", path)
    found = {line["path"]: line["score"] for line in map(json.loads, out.splitlines()) if "score" in line}
    assert found == expected != scores_of_detect(capsys, pictures, weights)
    status, _, err = run(capsys, "rank", pictures, "--weights", weights, "--resume", path)
    assert status == 1
    assert "precision" in err


def test_spectrum(tmp_path, capsys):
    make_split(tmp_path / "d/test/alpha", 3, 5, side=32)
    make_split(tmp_path / "d/test/beta", 2, 6, side=32)
    target = tmp_path / "s.png"
    status, out, _ = run(
        capsys, "spectrum", tmp_path / "d", "--out", target, "--side", 16, "--json", tmp_path / "s.json"
    )
    assert (status, out) == (0, f"{target}\n")
    assert Image.open(target).format == "PNG"
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["frequencies"] == [i / 16 for i in range(9)]
    assert {name: row["fake"]["images"] for name, row in content["generators"].items()} == {"alpha": 3, "beta": 2}
    alpha = content["generators"]["alpha"]
    assert alpha["fake"]["profile"][-1] < alpha["real"]["profile"][-1]  # bilinear fakes lack high frequencies


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explain", "x.png", "--weights", "{tmp}/no.pth", "--out", "{tmp}/o"], "no.pth: No such file"),
        (["explain", "x.png", "--weights", "{w}", "--out", "{w}"], "File exists"),
        (["rank", "x.png", "--weights", "{w}", "--sheet", "{tmp}/no/s.png"], "there is no folder"),
        (["spectrum", "{tmp}/nowhere", "--out", "{tmp}/s.png"], "nowhere does not exist"),
        (["spectrum", "{tmp}/d", "--out", "{tmp}/no/s.png"], "there is no folder"),
        (["spectrum", "{tmp}/d", "--out", "{tmp}/s.png", "--side", "4"], "--side must be at least 8"),
        (["spectrum", "{tmp}/d", "--out", "{tmp}/s.png"], "no readable image of at least 128x128 pixels"),
    ],
)
def test_bad_input(arguments, message, tmp_path, weights, capsys):
    make_split(tmp_path / "d", 1, 5, side=16)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(capsys, *(argument.format(tmp=tmp_path, w=weights) for argument in arguments))
    assert (status, out) == (1, "")
    assert message in err.splitlines()[-1]
    assert err.splitlines()[-1].startswith("npr: error: ")
    assert sorted(tmp_path.rglob("*")) == before


def test_missing_matplotlib_is_said_first(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    status, _, err = run(capsys, "explain", "x.png", "--weights", tmp_path / "no.pth", "--out", tmp_path / "o")
    assert status == 1
    assert err == "npr: error: figures need matplotlib: pip install 'npr-kernels[report]'\n"
