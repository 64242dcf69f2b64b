"""`npr bench`: what it measures, prints and writes, and what it compares."""

import json

import pytest

from detector.bench import results
from detector.bench.cases import FULL, QUICK
from tests.detector.bench import fakes
from tests.detector.commands.test_commands import status_of


@pytest.fixture
def asked(monkeypatch):
    """Has runs measure nothing, and notes what they were asked for."""
    seen = []

    def run(cases, effort, threads, report):
        seen.append((cases, effort, threads))
        report("1/1 done")
        return fakes.results({"npr": 2.0, "eager": 9.0})

    monkeypatch.setattr(results, "run", run)
    return seen


def test_quick(asked, capsys):
    assert status_of("bench", "--quick", "--threads", "3") == 0
    ((cases, effort, threads),) = asked
    assert cases == QUICK
    assert effort.patience <= 175
    assert threads == 3
    captured = capsys.readouterr()
    assert "| npr " in captured.out
    assert "1/1 done" in captured.err


def test_kinds_and_minutes(asked):
    assert status_of("bench", "--only", "model", "--only", "train", "--minutes", "2") == 0
    ((cases, effort, _),) = asked
    assert cases == tuple(case for case in FULL if case.kind in ("model", "train"))
    assert effort.seconds == 120


def test_json(asked, capsys, tmp_path):
    assert status_of("bench", "--json") == 0
    assert json.loads(capsys.readouterr().out)["schema"] == results.SCHEMA
    assert status_of("bench", "--json", tmp_path / "r.json") == 0
    assert "| npr " in capsys.readouterr().out
    assert results.read(tmp_path / "r.json")["date"] == "2000-01-01"
    assert status_of("bench", "--json", tmp_path / "no" / "r.json") == 1
    assert len(asked) == 2  # nothing was measured that could not be written


def test_a_failure_of_ours_is_the_exit_status(monkeypatch):
    monkeypatch.setattr(results, "run", lambda *_: fakes.results({"npr": "it broke", "eager": 9.0}))
    assert status_of("bench", "--quick") == 1
    monkeypatch.setattr(results, "run", lambda *_: fakes.results({"npr": 1.0, "npr-int8": "not there", "eager": "no"}))
    assert status_of("bench", "--quick") == 0


def test_comparison(tmp_path, capsys):
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    results.write(old, fakes.results({"npr": 2.0, "eager": 9.0}))
    results.write(new, fakes.results({"npr": 4.4, "eager": 18.0}))
    assert status_of("bench", "--compare", old, new) == 1
    assert "kept: npr: 10.0 % slower beside eager" in capsys.readouterr().out
    assert status_of("bench", "--compare", old, new, "--tolerance", "11%") == 0
    assert status_of("bench", "--compare", old, new, "--tolerance", "0.11") == 0
    assert status_of("bench", "--compare", new, old) == 0
    old.write_text("{}")
    assert status_of("bench", "--compare", old, new) == 1
    assert "no results file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "soup"],
        ["--threads", "0"],
        ["--tolerance", "5%"],
        ["--compare", "a", "b", "--quick"],
        ["--compare", "a"],
        ["--compare", "a", "b", "--tolerance", "much"],
        ["--compare", "a", "b", "--tolerance", "-1%"],
    ],
)
def test_wrong_usage(arguments):
    assert status_of("bench", *arguments) == 2
