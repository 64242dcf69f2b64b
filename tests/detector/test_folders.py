import os
import subprocess
import sys

import pytest

from detector.folders import whole_folder


def fill(folder, text="new"):
    (folder / "inner").mkdir()
    (folder / "inner" / "a.txt").write_text(text)


def test_appears_as_a_whole(tmp_path):
    target = tmp_path / "some" / "where" / "data"
    with whole_folder(target) as folder:
        fill(folder)
        assert not target.exists()
        (hidden,) = target.parent.iterdir()
        assert hidden.name.startswith(".data.")
    assert (target / "inner" / "a.txt").read_text() == "new"
    assert os.listdir(target.parent) == ["data"]


def test_replaces_only_what_it_may(tmp_path):
    target = tmp_path / "data"
    target.mkdir()
    with whole_folder(target) as folder:
        fill(folder, "old")
    with pytest.raises(OSError, match="not empty"), whole_folder(target) as folder:
        fill(folder)
    assert (target / "inner" / "a.txt").read_text() == "old"
    with whole_folder(target, replace=True) as folder:
        fill(folder)
        assert (target / "inner" / "a.txt").read_text() == "old"
    assert (target / "inner" / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["data"]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(error, tmp_path):
    def fail():
        with whole_folder(tmp_path / "data") as folder:
            fill(folder)
            raise error

    with pytest.raises(error):
        fail()
    assert os.listdir(tmp_path) == []


_WAITING = """
import sys, time
from detector.folders import whole_folder
with whole_folder(sys.argv[1]) as folder:
    (folder / "a.txt").write_text("half")
    print(folder.parent.name, flush=True)
    time.sleep(600)
"""


def test_what_a_killed_process_left_goes_and_what_a_living_one_fills_stays(tmp_path):
    pytest.importorskip("fcntl", reason="the system has no such locks")
    others = [".data.tmp", ".data.12345678.tmp.txt", ".database.12345678.tmp", "data.12345678.tmp"]
    for name in others:
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", _WAITING, str(tmp_path / "data")]
    killed, living = (subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2))
    try:
        folders = [process.stdout.readline().strip() for process in (killed, living)]
        assert all((tmp_path / folder / "new" / "a.txt").exists() for folder in folders)
        killed.kill()
        killed.wait()
        with whole_folder(tmp_path / "data") as folder:
            fill(folder)
        assert sorted(os.listdir(tmp_path)) == sorted([*others, "data", folders[1]])
        assert (tmp_path / folders[1] / "new" / "a.txt").exists()
    finally:
        for process in (killed, living):
            process.kill()
            process.wait()
            process.stdout.close()
