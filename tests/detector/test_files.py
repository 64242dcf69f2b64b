import os

import pytest

from detector.files import check_writable, whole_file, write_text


def test_replaces_as_a_whole(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old\n")
    with whole_file(target) as part:
        part.write_text("new\n")
        assert target.read_text() == "old\n"
    assert target.read_text() == "new\n"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [OSError, ValueError, KeyboardInterrupt])
def test_leaves_the_old_file_when_writing_fails(tmp_path, error):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fail():
        with whole_file(target) as part:
            part.write_text("half of the n")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_rest_of_a_killed_process_is_no_obstacle(tmp_path):
    (tmp_path / ".a.txt.part").write_text("a rest that is longer than what follows")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_targets_that_cannot_be_written(tmp_path):
    for function in (check_writable, lambda target: write_text(target, "x")):
        with pytest.raises(IsADirectoryError, match="folder"):
            function(tmp_path)
        with pytest.raises(FileNotFoundError):
            function(tmp_path / "none" / "a.txt")
    check_writable(tmp_path / "a.txt")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="not writable"):
        check_writable(tmp_path / "a.txt")
