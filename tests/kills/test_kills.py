"""A few kills of every command but the study, `make kills` has hundreds; and that what is planted is found."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kills.harness import content_of, is_temporary

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads the clocks of other processes as Linux has them")


def run(*command, **options):
    """In a process of its own: one that has used threads must not fork."""
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, **options)


@pytest.mark.slow
def test_a_few_kills(seed):
    pytest.importorskip("matplotlib")
    done = run("-m", "tests.kills.run", "--kills", "2", "--seed", str(seed), "train", "eval", "synth")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(f"6 kills from seed {seed}, 0 works failed\n")


_PLANTED = """
import json, os, sys, time
from pathlib import Path
from tests.kills.harness import Broken, Work, torment

def steps():
    for _ in range(50):
        yield sum(range(20000))

def half_written(words):
    with open(words[0] + "/result.json", "w") as file:
        for number in steps():
            file.write("[" if file.tell() == 0 else ", ")
            file.write(str(number))
            file.flush()
        file.write("]")
    return 0

def left_behind(words):
    part = Path(words[0], f".{os.getpid()}.part")
    part.touch()
    part.write_text(json.dumps([*steps()]))
    part.rename(words[0] + "/result.json")
    return 0

def another_end(words):
    begun = Path(words[0], "begun.json")
    text = json.dumps(begun.exists())
    begun.write_text("true")
    [*steps()]
    Path(words[0], "result.json").write_text(text)
    return 0

def fails_the_second_time(words):
    Path(words[0], "lock.json").touch(exist_ok=False)
    Path(words[0], "lock.json").write_text("1")
    [*steps()]
    return 0

def right(words):
    part = Path(words[0], ".result.part")
    part.write_text(json.dumps([*steps()]))
    part.rename(words[0] + "/result.json")
    return 0

work = Work("planted", lambda out: [str(out)], run=globals()[sys.argv[1]])
try:
    print(torment(work, Path(sys.argv[2]), 12, int(sys.argv[3]), say=lambda message: None).kills)
except Broken as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("half_written", "result.json is not whole: JSONDecodeError"),
        ("left_behind", "left behind: ."),
        ("another_end", "result.json has another content"),
        ("fails_the_second_time", "exit status 70 after kills at ["),
        ("right", "12\n"),
    ],
)
def test_what_is_planted_is_found(fault, message, tmp_path):
    done = run("-c", _PLANTED, fault, str(tmp_path / "place"), "1")
    assert done.returncode == 0, done.stderr
    assert message in done.stdout


@pytest.mark.parametrize(
    ("name", "text", "whole"),
    [
        ("a.json", '{"a": 1}\n', True),
        ("a.json", '{"a": 1', False),
        ("a.jsonl", '{"a": 1}\n{"a":', True),
        ("a.jsonl", '{"a": 1\n{"a": 2}\n', False),
        ("a.html", "<html></html>\n", True),
        ("a.html", "<html></ht", False),
        ("a.csv", "a,b\n1,2\n", True),
        ("a.csv", "a,b\n1,2", False),
        ("a.csv", "a,b\n1\n", False),
        ("a.png", "", False),
        ("a.safetensors", "", False),
        ("a.txt", "", False),
    ],
)
def test_which_files_are_whole(name, text, whole, tmp_path):
    (tmp_path / name).write_text(text)
    if whole:
        content_of(tmp_path / name)
        return
    with pytest.raises(Exception, match=r"."):
        content_of(tmp_path / name)


def test_what_is_forgotten(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"seconds": 1, "a": [{"seconds": 2, "b": 3}]}))
    assert content_of(path, frozenset({"seconds"})) == {"a": [{"b": 3}]}


def test_temporary_names():
    assert is_temporary(Path(".a.json.part"))
    assert is_temporary(Path("run/.data.12345678.tmp/new/a.png"))
    assert not is_temporary(Path("run/a.json"))
