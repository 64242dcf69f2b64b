"""`npr scan`: the same as `npr detect`, each path once, whatever was killed."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager

import pytest

from detector.cli import main
from detector.console import Meter
from tests.detector.scan.packages import needed
from tests.detector.scan.rows import as_line, rows_of, told
from tests.kills.scan import start, wait_for_parts

pa, pq, ray = needed("pyarrow", "pyarrow.parquet", "ray")

pytestmark = pytest.mark.xdist_group("ray")


def test_it_says_what_detect_says_bit_for_bit(pictures, tmp_path, scan, detect):
    status, summary = scan(pictures, tmp_path / "none", "--out", tmp_path / "out", "--block-size", 3)
    rows = rows_of(tmp_path / "out")
    wanted = detect(pictures, tmp_path / "none")
    assert {row["path"]: as_line(row) for row in rows} == {path: told(line) for path, line in wanted.items()}
    assert any(row["read"] not in (None, 1.0) for row in rows)
    assert len(rows) == len(wanted) == 14
    sizes = {str(path): path.stat().st_size for path in pictures.rglob("*.*")} | {str(tmp_path / "none"): None}
    assert {row["path"]: row["bytes"] for row in rows} == sizes
    assert status == 1
    counts = {name: sum(row["verdict"] == name for row in rows) for name in ("fake", "real", "unsure")}
    assert {name: summary[name] for name in counts} == counts
    assert (summary["files"], summary["new"], summary["error"]) == (14, 14, 4)

    again, summary = scan(pictures, tmp_path / "none", "--out", tmp_path / "out")
    assert (again, summary["files"], summary["new"], summary["error"]) == (1, 14, 0, 4)
    assert rows_of(tmp_path / "out") == rows


def test_manifests_and_what_they_carry(pictures, tmp_path, scan, detect):
    images = sorted(map(str, pictures.glob("*.jpg")))
    keys = list(range(len(images)))
    pq.write_table(pa.table({"key": keys, "file": images, "x": keys}), tmp_path / "a.parquet")
    extra = str(pictures / "more")
    status, summary = scan(
        tmp_path / "a.parquet", extra, "--column", "file", "--carry", "key", "--out", tmp_path / "out"
    )
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    wanted = detect(*images, extra)
    assert {path: as_line(row) for path, row in rows.items()} == {path: told(line) for path, line in wanted.items()}
    assert [rows[path]["key"] for path in images] == keys
    assert {row["key"] for path, row in rows.items() if path not in images} == {None}
    assert (status, summary["error"]) == (1, 1)


@pytest.mark.slow
def test_terminated_killed_and_finished(pictures, tmp_path, weights, scan, detect):
    """SIGTERM and SIGKILL, each after a part more was written, unless the scan ended meanwhile; and then the rest."""
    out = tmp_path / "out"
    arguments = [str(pictures), "--weights", str(weights), "--out", str(out), "--block-size", "1"]
    before: set[str] = set()
    for end in (signal.SIGTERM, signal.SIGKILL):
        process = start(arguments)
        wait_for_parts(process, out, len(before) + 1)
        process.send_signal(end)
        _, said = process.communicate(timeout=100)
        said = "".join(line for line in said.splitlines(True) if not line.startswith("scan "))  # of progress
        assert (process.returncode, said) in ((-signal.SIGKILL, ""), (143, "npr: terminated\n"), (1, ""))
        paths = [row["path"] for row in rows_of(out)]
        assert len(paths) == len(set(paths))
        assert before < set(paths) or process.returncode == 1
        before = set(paths)
    _, summary = scan(pictures, "--out", out)
    rows = rows_of(out)
    wanted = detect(pictures)
    assert sorted(row["path"] for row in rows) == sorted(wanted)
    assert {row["path"]: as_line(row) for row in rows} == {path: told(line) for path, line in wanted.items()}
    assert summary["new"] <= len(wanted) - len(before)
    assert list(out.glob(".*")) == []


@pytest.mark.slow
def test_interrupted_and_begun_again_in_one_process(pictures, tmp_path, scan, weights, monkeypatch, capsys):
    """The first one's actors have all cores, so without their end there would be none for the second one's."""
    arguments = [pictures, "--out", tmp_path / "out", "--block-size", 4]
    advance = Meter.advance

    def interrupted(meter, count):
        advance(meter, count)
        raise KeyboardInterrupt

    with within(seconds=600):
        for _ in range(2):
            monkeypatch.setattr(Meter, "advance", interrupted)
            assert main(["scan", *map(str, arguments), "--weights", str(weights)]) == 130
            assert capsys.readouterr().err == "npr: interrupted\n"
        monkeypatch.setattr(Meter, "advance", advance)
        _, summary = scan(*arguments)
    assert summary["files"] == 13
    assert summary["new"] <= 5  # two blocks at least are there
    paths = [row["path"] for row in rows_of(tmp_path / "out")]
    assert sorted(paths) == sorted(str(path) for path in pictures.rglob("*.*"))


@contextmanager
def within(seconds):
    """Fails where the block takes longer, as what waits for ever would."""

    def fail(number, frame):
        pytest.fail(f"no end in {seconds} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_an_error_of_a_worker_is_one_line(pictures, tmp_path, ray_here, no_progress, weights, capsys):
    """The manifest is damaged where its beginning does not show it."""
    path = tmp_path / "m.csv"
    path.write_text("path\n" + f"{pictures / '1.jpg'}\n" * 100_000 + "a,b,c\n")
    assert main(["scan", str(path), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"npr: error: {path}: ")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["m.csv", "--column", "file"], "file"),
        (["m.parquet"], "m.parquet has no column 'path'; it has file, label"),
        (["m.parquet", "--column", "label"], "m.parquet: its column 'label' holds no text, but int64"),
        (["m.parquet", "--column", "file", "--carry", "score"], "--carry score: results have a column of that name"),
        ([".", "--carry", "label"], "no manifest is given that could have the columns label"),
        (["none.parquet"], "none.parquet: No such file or directory"),
        (["text.parquet"], "text.parquet: "),
        ([".", "--out", "."], ". holds something else than a scan; name another folder"),
        ([".", "--out", "m.csv"], "m.csv: Not a directory"),
        ([".", "--out", "m.csv/out"], "m.csv/out: Not a directory"),
        ([".", "--weights", "none"], "none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_said_in_one_line_before_ray_starts(arguments, error, tmp_path, weights, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("detector.scan.cluster.running", None)
    pq.write_table(pa.table({"file": ["a"], "label": [1]}), "m.parquet")
    (tmp_path / "m.csv").write_text("name\na\n")
    (tmp_path / "text.parquet").write_text("no Parquet")
    defaults = ["--weights", str(weights)] * ("--weights" not in arguments) + ["--out", "out"] * (
        "--out" not in arguments
    )
    assert main(["scan", *arguments, *defaults]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("npr: error: ")
    assert error in line
    assert not (tmp_path / "out").exists()


def test_without_ray_the_extra_is_named(tmp_path, weights, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    for module in ("cluster", "engine"):
        monkeypatch.delitem(sys.modules, f"detector.scan.{module}", raising=False)
        monkeypatch.delattr(f"detector.scan.{module}", raising=False)
    assert main(["scan", str(tmp_path), "--weights", str(weights), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "npr: error: npr scan needs ray: pip install 'npr-kernels[scan]'\n"
