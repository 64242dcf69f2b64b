"""The folder of a scan: who may write, when, and what is found in it again."""

import itertools
import json

import pytest

from tests.detector.scan.packages import needed

pa, output = needed("pyarrow", "detector.scan.output")

SETTINGS = {"model": "abc", "threshold": "0.5"}


def results(paths, verdicts):
    return pa.table({"path": paths, "verdict": pa.array(verdicts, pa.string())})


def test_what_is_written_is_found_by_the_next_scan(tmp_path):
    folder = tmp_path / "key=value" / "out"
    with output.Output(folder, SETTINGS) as first:
        assert not first.counts
        for _ in range(2):  # the block of an actor that died after it wrote it
            output.write_part(folder, first.run, results(["a", "b"], ["fake", None]))
        output.write_part(folder, first.run, results(["c"], ["real"]))
        assert list(output.paths_done(folder, first.run)) == []
    with output.Output(folder, SETTINGS) as second:
        assert second.run != first.run
        assert second.counts == {"fake": 1, "error": 1, "real": 1}
        assert sorted(itertools.chain(*output.paths_done(folder, second.run))) == ["a", "b", "c"]


def test_a_scan_that_was_killed_when_it_began_is_begun_again(tmp_path):
    for name in (output.RUN, output.LOCK, f".{output.SETTINGS}.part"):
        (tmp_path / name).touch()
    with output.Output(tmp_path, SETTINGS):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([output.SETTINGS, output.RUN, output.LOCK])


def test_one_scan_at_a_time(tmp_path):
    with output.Output(tmp_path, SETTINGS), pytest.raises(OSError, match="another scan writes there"):
        output.Output(tmp_path, SETTINGS)
    with output.Output(tmp_path, SETTINGS):
        pass


def test_what_a_killed_scan_left_behind_writes_nothing_more(tmp_path):
    with output.Output(tmp_path, SETTINGS) as first:
        pass
    (tmp_path / ".part-1.parquet.part").touch()
    with output.Output(tmp_path, SETTINGS) as second:
        assert not list(tmp_path.glob(".*"))
        with pytest.raises(output.OvertakenError, match="another scan has begun"):
            output.write_part(tmp_path, first.run, results(["a"], ["fake"]))
        output.write_part(tmp_path, second.run, results(["a"], ["fake"]))
    with pytest.raises(output.OvertakenError):
        output.write_part(tmp_path, second.run, results(["b"], ["fake"]))
    assert len(output.parts_of(tmp_path)) == 1


def test_a_folder_that_is_not_shared(tmp_path):
    """It is missing on another machine, or another scan's."""
    with output.Output(tmp_path / "a", SETTINGS) as scan, output.Output(tmp_path / "b", SETTINGS):
        output.check_shared(tmp_path / "a", scan.run)
        for folder in (tmp_path / "b", tmp_path, tmp_path / "none"):
            with pytest.raises(OSError, match="--out must be shared by all machines"):
                output.check_shared(folder, scan.run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("photo.png", "", "holds something else than a scan"),
        ("_scan.json", "{", "is no scan's"),
        ("_scan.json", "[]", "is no scan's"),
        ("_scan.json", json.dumps({"kind": "study"}), "is no scan's"),
        (
            "_scan.json",
            json.dumps({"kind": "scan", **SETTINGS, "model": "x"}),
            "are of another model, x, not abc; name",
        ),
        ("_scan.json", json.dumps({"kind": "scan", "model": "abc"}), "are of another threshold, None, not 0.5; name"),
    ],
)
def test_other_folders_are_refused_and_left_as_they_are(name, content, error, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=error):
        output.Output(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == [name]
