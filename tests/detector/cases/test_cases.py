"""What was once reported, as cases: what `npr detect --json` must say of a file.

Each JSON file beside this one is a case, an object with

- `about`: what was reported, and why the expected outcome is right;
- `file`: the recipe of the file, see :mod:`tests.detector.cases.recipe`;
- `arguments`: of `npr detect`, beside the file; by default none, which means the detector in the box;
- `expected`: any fields of the JSON line. `error` is part of the message, `score` a pair of bounds, others are equal;
- `open`: why the outcome is another one today. The test then fails where it does not fail.
"""

import json
from pathlib import Path

import pytest

from detector.box import DEFAULT, find
from detector.cli import main
from tests.detector.cases.recipe import file_of

FOLDER = Path(__file__).parent
CASES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))}
KNOWN = {"about", "file", "arguments", "expected", "open"}


def outcome(case, folder, capsys):
    """The JSON line on the case's file."""
    path = folder / case["file"]["name"]
    path.write_bytes(file_of(case["file"]))
    main(["detect", "--json", str(path), *case.get("arguments", [])])
    captured = capsys.readouterr()
    assert all(line.startswith("npr: warning: ") for line in captured.err.splitlines())  # of another decoder
    (line,) = captured.out.splitlines()
    return json.loads(line)


def faults(expected, found):
    """In which fields the outcome is not the expected one."""
    result = []
    for name, wanted in expected.items():
        got = found.get(name)
        if name == "error":
            right = got is not None and wanted in got
        elif name == "score":
            right = got is not None and wanted[0] <= got <= wanted[1]
        else:
            right = got == wanted
        if not right:
            result.append(f"{name}: {got!r}, expected {wanted!r}")
    if "error" in found and "error" not in expected:
        result.append(f"error: {found['error']}")
    return result


@pytest.mark.parametrize("name", CASES)
def test_case(name, tmp_path, capsys, request):
    case = CASES[name]
    assert set(case) <= KNOWN
    assert case["about"]
    assert case["expected"]
    if "--weights" not in case.get("arguments", []):
        try:
            find(DEFAULT)
        except FileNotFoundError as error:
            pytest.skip(str(error))
    if "open" in case:
        request.applymarker(pytest.mark.xfail(reason=case["open"], raises=AssertionError, strict=True))
    found = outcome(case, tmp_path, capsys)
    wrong = faults(case["expected"], found)
    assert not wrong, f"{case['about']}\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("expected", "wrong"),
    [
        ({"verdict": "real", "width": 4, "score": [0.1, 0.2]}, 0),
        ({"verdict": "fake"}, 1),
        ({"width": 5, "score": [0.16, 1]}, 2),
        ({"error": "is damaged"}, 1),
    ],
)
def test_faults_are_seen(expected, wrong):
    assert len(faults(expected, {"verdict": "real", "width": 4, "score": 0.15})) == wrong


def test_errors_are_faults_where_none_is_expected():
    assert faults({"error": "damaged"}, {"error": "is damaged (x)"}) == []
    assert len(faults({"error": "empty"}, {"error": "is damaged (x)"})) == 1
    assert len(faults({"verdict": "real"}, {"error": "is damaged (x)"})) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"colour": 3},
        {"steps": [{"sharpen": 3}]},
        {"damage": [{"burn": 1}]},
        {"picture": {"kind": "x", "width": 2, "height": 2}},
    ],
)
def test_recipes_with_unknown_words_are_refused(change):
    recipe = {"name": "a.png", "picture": {"kind": "flat", "width": 4, "height": 4}, "save": {"format": "PNG"}}
    assert file_of(recipe) == file_of(recipe)
    with pytest.raises(ValueError, match=r"has no|no step is|no damage is"):
        file_of(recipe | change)
