"""Journal: what it takes up, what it repairs, and what it refuses and leaves as it is."""

import json
import os
import subprocess
import sys

import pytest

from detector.journal import Journal


def settings(line):
    return {"model": line.get("model"), "mood": line.get("mood")}


def journal(path, model="m", mood=None):
    return Journal(path, settings, {"model": model, "mood": mood})


LINES = [{"path": "a.png", "score": 0.5, "model": "m"}, {"path": "b\udcff.png", "error": "is empty"}]


def write(path, *lines):
    with journal(path) as opened:
        for line in lines:
            assert opened.begin(line["path"])
            opened.append(line)


def test_lines_are_there_when_append_returns(tmp_path):
    with journal(tmp_path / "j") as opened:
        for number, line in enumerate(LINES, start=1):
            opened.append(line)
            assert len((tmp_path / "j").read_bytes().splitlines()) == number
        assert list(opened.lines()) == LINES


def test_goes_on(tmp_path):
    write(tmp_path / "j", *LINES)
    with journal(tmp_path / "j") as opened:
        assert opened.failed == 1
        assert not opened.begin("a.png")
        assert not opened.begin("b\udcff.png")
        assert opened.begin("c.png")
        assert not opened.begin("c.png")
        opened.append({"path": "c.png", "error": "is empty"})
        assert opened.failed == 2
    assert [json.loads(line)["path"] for line in (tmp_path / "j").open()] == ["a.png", "b\udcff.png", "c.png"]


def test_cut_off_anywhere_the_last_line_is_written_again(tmp_path):
    write(tmp_path / "j", *LINES)
    whole = (tmp_path / "j").read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(len(whole)):
        (tmp_path / "j").write_bytes(whole[:length])
        with journal(tmp_path / "j") as opened:
            for line in LINES:
                if opened.begin(line["path"]):
                    opened.append(line)
            assert opened.failed == 1
        assert (tmp_path / "j").read_bytes() == whole
    assert first < len(whole)


@pytest.mark.parametrize(
    "content",
    [b"hello", b"hello\n", b"\x00" * 40, b"[1]\n", b'{"path": 3}\n', b'{"score": 1}\n', b"\xff\xd8\xff", b"\n",
     b'{"path": "a.png", "error": "x"}\n\n', b'{"path": "a.png", "error": "x"}\nhello', b'{"paths": '],
)  # fmt: skip
def test_a_file_of_another_kind_is_left_alone(tmp_path, content):
    (tmp_path / "j").write_bytes(content)
    with pytest.raises(ValueError, match=r"j: line [12] is no result of this command"):
        journal(tmp_path / "j")
    assert (tmp_path / "j").read_bytes() == content


@pytest.mark.parametrize("tail", [b"", b'{"path": "half'])
def test_another_model_is_refused_in_one_line(tmp_path, tail):
    write(tmp_path / "j", *LINES)
    with (tmp_path / "j").open("ab") as file:
        file.write(tail)
    before = (tmp_path / "j").read_bytes()
    with pytest.raises(ValueError, match=r"^.*j: its results are of another model, m, not n; name another file$"):
        journal(tmp_path / "j", model="n")
    with pytest.raises(ValueError, match="of another mood, None, not good"):
        journal(tmp_path / "j", mood="good")
    assert (tmp_path / "j").read_bytes() == before


def test_errors_are_of_any_model(tmp_path):
    write(tmp_path / "j", LINES[1])
    with journal(tmp_path / "j", model="n") as opened:
        assert opened.failed == 1


def test_one_process_at_a_time(tmp_path):
    pytest.importorskip("fcntl", reason="needs file locks")
    code = (
        "import sys; from detector.journal import Journal\n"
        "try: Journal(sys.argv[1], dict, {})\nexcept OSError as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "j")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def other():
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    with journal(tmp_path / "j"):
        assert other() == f"{tmp_path}/j: another process writes to it\n"
    assert other() == ""


def test_no_place_to_write(tmp_path):
    with pytest.raises(IsADirectoryError):
        journal(tmp_path)
    with pytest.raises(FileNotFoundError):
        journal(tmp_path / "no" / "j")
