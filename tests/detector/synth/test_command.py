"""`npr synth`: its options, its output, its errors."""

import argparse
import json

import pytest

from detector.commands import synth
from detector.synth import FAMILIES, MANIFEST


def run(*arguments):
    parser = argparse.ArgumentParser(prog="npr")
    synth.add_parser(parser.add_subparsers())
    args = parser.parse_args(["synth", *map(str, arguments)])
    return args.run(args)


SMALL = ("--scenes", 4, "--size", 32, "--count", 1, "--train-count", 2)


def test_makes_a_data_set(tmp_path, capsys):
    out = tmp_path / "data"
    assert run("--out", out, *SMALL, "--families", "fir", "unpool", "--train-family", "bilinear") == 0
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


def test_help(capsys):
    with pytest.raises(SystemExit) as caught:
        run("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for option in ("--photos", "--out", "--size", "--count", "--families", "--train-family", "--seed", "--force"):
        assert option in text


@pytest.mark.parametrize(
    "arguments",
    [(), ("--list", "--out", "x"), ("--out", "x", "--size", "big"), ("--out", "x", "--families", "dalle"), ("--out",)],
)
def test_usage_errors_exit_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        run(*arguments)
    assert caught.value.code == 2
    assert "usage: npr synth" in capsys.readouterr().err


def test_bad_input_is_a_value_error_of_one_line(tmp_path):
    for arguments in (("--photos", tmp_path / "none"), ("--size", 33), ("--families", "fir", "fir"), ("--scenes", 2)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - the messages are tested where they arise
            run("--out", tmp_path / "data", *SMALL, *arguments)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "data").exists()
