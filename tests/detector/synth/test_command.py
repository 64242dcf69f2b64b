"""`npr synth`: its options, its output, its errors."""

import json

import pytest

from detector.cli import main
from detector.commands.synth import _SUITES
from detector.synth import FAMILIES, MANIFEST, SUITE_28, SUITES


def run(*arguments):
    return main(["synth", *map(str, arguments)])


SMALL = ("--scenes", 4, "--size", 32, "--count", 1, "--train-count", 2)


def test_makes_a_data_set(tmp_path, capsys):
    out = tmp_path / "data"
    assert run("--out", out, *SMALL, "--families", "fir,unpool", "--train-family", "bilinear") == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("fir", "unpool", "bilinear"))
    assert "simulated" in text
    assert sorted(path.relative_to(out).as_posix() for path in out.glob("*/*")) == [
        "test/fir",
        "test/unpool",
        "train/bilinear",
        "val/bilinear",
    ]


def test_json_is_the_manifest(tmp_path, capsys):
    assert run("--out", tmp_path / "data", *SMALL, "--families", "fir", "--seed", 3, "--json") == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest == json.loads((tmp_path / "data" / MANIFEST).read_text())
    assert manifest["seed"] == 3


def test_list(capsys):
    assert run("--list") == 0
    text = capsys.readouterr().out
    assert all(spec.name in text for spec in FAMILIES)
    assert run("--list", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [spec.name for spec in FAMILIES]


def test_suites(tmp_path, capsys):
    assert tuple(SUITES) == _SUITES
    assert run("--list", "--suite", "28", "--json") == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == [spec.name for spec in SUITE_28]
    options = ("--suite", "28", "--families", "cascade-bicubic", "--train-family", "patches-x4")
    assert run("--out", tmp_path / "data", *SMALL, *options) == 0
    assert (tmp_path / "data/test/cascade-bicubic/1_fake/00000.png").exists()


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--photos", "--out", "--size", "--count", "--families", "--train-family", "--seed", "--force"):
        assert option in text


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--list", "--out", "x"),
        ("--out",),
        ("--out", "x", "--size", "big"),
        ("--out", "x", "--count", 0),
        ("--out", "x", "--seed", -1),
        ("--out", "x", "--families", "dalle"),
        ("--out", "x", "--families", "patches-x4"),  # of the other suite
        ("--out", "x", "--suite", "29"),
        ("--out", "x", "--train-family", "fir,fir"),
    ],
)
def test_usage_errors_exit_2(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: npr" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--photos", "none"), "none does not exist"),
        (("--size", 33), "size must be a multiple of 8, got 33"),
        (("--scenes", 2), "at least 4 photographs are needed, got 2"),
    ],
)
def test_bad_input_is_one_line_and_exit_1(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("--out", "data", *SMALL, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.err == f"npr: error: {message}\n"
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == []
