"""A run of rows with faults planted in a device that is none: every other row still arrives.

No bound is on how fast anything is: a row that hangs does so for an hour, and its cap, where a test waits for it, is
far above what the others take.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from importlib import metadata

import pytest
import torch

from benchmarks.gpu import __main__, journal, needs, plan
from benchmarks.gpu.journal import ATTEMPTS, Journal, Row
from benchmarks.gpu.runner import Caps, run
from tests.benchmarks import fake_gpu
from tests.benchmarks.fake_gpu import FACTS, ROWS

PATIENT = Caps(start=300, row=300, implementation=600, total=600)


def outcomes(folder):
    (only,) = journal.read(folder / "rows.jsonl")
    return {row: only.outcomes.get(row) for row in ROWS}


def measured(folder):
    """Each row that the workers began, with the process."""
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [tuple(line.split()) for line in lines]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("raise", "ValueError: not of this shape"),
        ("sticky", "RuntimeError: launch failed"),
        ("exit", "its process ended with status 3"),
        ("kill", "its process ended with status -9"),
    ],
)
def test_every_other_row_arrives(fault, error, tmp_path):
    fake_gpu.run(tmp_path, {"c": fault}, PATIENT)
    by_row = outcomes(tmp_path)
    planted = Row("bench", "op", "c", "ours", "nchw")
    assert by_row.pop(planted)["error"] == error
    assert set(map(str, by_row.values())) == {"{'ms_per_image': 1.0}"}
    processes = {(name, work): process for name, work, process in measured(tmp_path)}
    assert len(processes) == len(ROWS) == len(measured(tmp_path))  # nothing was measured twice
    replaced = processes["ours", "b"] != processes["ours", "d"]
    assert replaced == (fault != "raise")


def test_a_process_that_hangs_is_ended(tmp_path):
    """Its cap is short, which no other row has: nothing else can be late."""
    rows = [ROWS[0], Row("bench", "op", "a", "hanging", "nchw"), ROWS[-1]]
    opened = Journal(tmp_path / "rows.jsonl", FACTS, rows)
    caps = Caps(start=300, row=300, rows={"hanging": 0.2})
    run(rows, opened, lambda: fake_gpu.start(tmp_path, {}), caps, lambda *_: None)
    opened.close()
    times = [opened.run.outcomes[row].get("ms_per_image") for row in rows]
    assert times == [1.0, None, 1.0]
    assert opened.run.outcomes[rows[1]] == {"error": "no result in 0.2 s: it was ended"}


def test_what_the_device_does_not_forget_is_told(tmp_path):
    fake_gpu.run(tmp_path, {"a": "sticky", "f": "sticky"}, PATIENT)
    for work in "af":
        outcome = outcomes(tmp_path)[Row("bench", "op", work, "ours", "nchw")]
        assert outcome["fault"] == "an illegal memory access was encountered"


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class FakeWorker:
    """One whose rows take as long as a test says, by the test's clock."""

    def __init__(self, clock, seconds, starting=0.0):
        self.clock, self.seconds, self.starting, self.broken = clock, seconds, starting, None

    def wait(self, timeout):
        self._spend(self.starting, timeout, "its process did not start in time")
        self.starting = 0.0

    def ask(self, request, value, timeout):
        self._spend(self.seconds.get(value.work, 1.0), timeout, "out of time")
        return {"error": self.broken} if self.broken else {"ms_per_image": 1.0}

    def close(self):
        pass

    def _spend(self, seconds, timeout, late):
        self.clock.now += min(seconds, timeout)
        if seconds > timeout:
            self.broken = late


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def go(tmp_path, clock):
    """Runs the rows with workers of known speed, and gives what became of them, by implementation and work."""

    def go(seconds, caps, starting=0.0):
        opened = Journal(tmp_path / "rows.jsonl", FACTS, ROWS)
        run(ROWS, opened, lambda: FakeWorker(clock, seconds, starting), caps, lambda *_: None, clock=clock)
        opened.close()
        (only,) = journal.read(tmp_path / "rows.jsonl")
        return {(row["implementation"], row["work"]): row for row in only.rows()}

    return go


def test_a_row_that_hangs_costs_its_cap(go, clock):
    rows = go({"b": 1000.0}, Caps(row=40, implementation=150, total=500))
    for name in ("ours", "theirs"):
        assert rows[name, "b"]["error"] == "no result in 40 s: it was ended"
        assert all("error" not in rows[name, work] for work in "acdef")
    assert clock.now == 2 * (40 + 5)


def test_an_implementation_has_its_share_of_the_time(go):
    rows = go({"d": 1000.0}, Caps(row=40, implementation=20, total=500))
    for name in ("ours", "theirs"):
        assert all("error" not in rows[name, work] for work in "abc")
        assert {rows[name, work]["error"] for work in "def"} == {"out of time"}
        assert all(rows[name, work]["left"] for work in "def")


def test_what_was_not_reached_is_reached_the_next_time(go):
    assert go({}, Caps(row=40, implementation=150, total=7))["theirs", "b"]["error"] == "out of time"
    assert all("error" not in row for row in go({}, Caps(total=7)).values())


def test_a_device_on_which_nothing_starts(go, clock):
    rows = go({}, Caps(start=60, row=40, implementation=150, total=500), starting=1000.0)
    assert {row["error"] for row in rows.values()} == {"its process did not start in time"}
    assert clock.now == 2 * 2 * 60


def test_a_row_of_its_own_cap(go):
    rows = go({"b": 60.0}, Caps(row=40, rows={"theirs": 100}))
    assert "error" in rows["ours", "b"]
    assert "error" not in rows["theirs", "b"]


def test_a_whole_run_with_faults_planted(tmp_path, monkeypatch, capsys):
    """Of the rows of a GPU: what is in the results file, and what the table says of it."""
    faults = {
        "forward, bfloat16": "sticky", "stem, bfloat16": "kill", "conv2d, float32": "raise",
        "stem_backward, bfloat16": "wrong", "inference, float32": "exit",
    }  # fmt: skip
    monkeypatch.setattr(__main__, "worker", lambda args: fake_gpu.start(tmp_path, faults))
    patience = [f"--seconds{part}=600" for part in ("", "-to-start", "-a-row", "-an-implementation")]
    assert __main__.main(["bench", "--results", str(tmp_path), *patience]) == 1
    (file,) = tmp_path.glob("fake-gpu-*.json")
    rows = json.loads(file.read_text())["results"]
    assert len(rows) == len(plan.bench(plan.implementations(torch.device("cuda")))) - 3
    for row in rows:
        fault = faults.get(row["work"]) if row["implementation"] == "cuda" else None
        assert ("ms_per_image" in row) == (fault is None)
        assert ("wrong" in row) == (fault == "wrong")
        assert ("error" in row) == (fault not in (None, "wrong"))
        assert ("fault" in row) == (fault == "sticky")
    said = capsys.readouterr().out
    assert said.startswith("Fake GPU")
    assert "Wrong: cuda, kernel stem_backward, bfloat16 channels_last: off by 3, at most 0.1 is right" in said
    reason = "RuntimeError: launch failed (an illegal memory access was encountered)"
    assert f"Not measured: cuda, npr_conv2d forward, bfloat16: {reason}" in said
    for status in (3, -9):
        assert f": its process ended with status {status}" in said
    before = len(measured(tmp_path))
    assert __main__.main(["bench", "--results", str(tmp_path), *patience]) == 1
    assert len(measured(tmp_path)) == before  # nothing is left to do
    assert capsys.readouterr().out == said


# ---- Ended and started again --------------------------------------------------------------------------------------


def wait_for(condition):
    end = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def killed_run(folder, faults):
    """Runs the rows in a process that is killed in the first one that hangs."""
    command = [sys.executable, "-m", "tests.benchmarks.fake_gpu", "run", str(folder), json.dumps(faults)]
    process = subprocess.Popen(command, cwd=fake_gpu.ROOT)
    hangs = next(work for work in fake_gpu.WORKS if faults.get(work) == "hang")
    before = len(measured(folder))
    wait_for(lambda: any(work == hangs for _, work, _ in measured(folder)[before:]) or process.poll() is not None)
    process.kill()
    assert process.wait() == -9


def test_it_goes_on_where_it_was_killed(tmp_path):
    killed_run(tmp_path, {"b": "exit", "d": "hang"})
    (run_before,) = journal.read(tmp_path / "rows.jsonl")
    ended = next(row for row in run_before.rows() if (row["implementation"], row["work"]) == ("ours", "d"))
    assert ended["error"] == "the run was ended in it"
    begun = [name_and_work[:2] for name_and_work in measured(tmp_path)]
    assert begun == [("ours", work) for work in "abcd"]
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b'{"row": ["bench", "op", "e", "ou')  # as a kill may leave it
    fake_gpu.run(tmp_path, {}, PATIENT)
    begun = [name_and_work[:2] for name_and_work in measured(tmp_path)[4:]]
    assert begun == [("ours", work) for work in "def"] + [("theirs", work) for work in "abcdef"]
    by_row = outcomes(tmp_path)
    assert by_row.pop(Row("bench", "op", "b", "ours", "nchw")) == {"error": "its process ended with status 3"}
    assert all(outcome == {"ms_per_image": 1.0} for outcome in by_row.values())


def test_a_worker_ends_with_who_started_it(tmp_path):
    """Also one that hangs, which would keep the device."""
    killed_run(tmp_path, {"a": "hang"})
    ((*_, process),) = measured(tmp_path)

    def gone():
        done = subprocess.run(["ps", "-o", "stat=", "-p", process], capture_output=True, text=True)
        return done.stdout.strip()[:1] in ("", "Z")

    wait_for(gone)


def test_a_row_that_ends_runs_is_given_up(tmp_path):
    """One that takes the machine with it must not do so for ever."""
    opened = Journal(tmp_path / "rows.jsonl", FACTS, ROWS)
    for attempt in range(ATTEMPTS):
        assert opened.pending(ROWS[0]), attempt
        opened.begin(ROWS[0])
        opened.close()
        opened = Journal(tmp_path / "rows.jsonl", FACTS, ROWS)
    assert not opened.pending(ROWS[0])
    assert opened.pending(ROWS[1])
    assert opened.run.outcomes[ROWS[0]] == {"error": "2 runs were ended while it was measured"}


def test_another_build_is_measured_anew(tmp_path):
    fake_gpu.run(tmp_path, {}, PATIENT)
    with (tmp_path / "rows.jsonl").open("ab") as file:
        file.write(b'{"begun": ["ben')  # as a kill may leave it
    fake_gpu.run(tmp_path, {"a": "raise"}, PATIENT, FACTS | {"of": "build 2"})
    first, second = journal.read(tmp_path / "rows.jsonl")
    assert [run.facts["of"] for run in (first, second)] == ["build 1", "build 2"]
    assert "error" not in first.outcomes[ROWS[0]]
    assert "error" in second.outcomes[ROWS[0]]
    assert len(measured(tmp_path)) == 2 * len(ROWS)


def test_journals_one_behind_another(tmp_path):
    """Two halves of a run, measured in two folders."""
    for name, rows in (("one", ROWS[:5]), ("two", ROWS[3:])):
        half = Journal(tmp_path / name, FACTS, rows)
        for row in rows:
            half.end(row, {"ms_per_image": 1.0 if name == "one" else 2.0})
        half.close()
    whole = tmp_path / "rows.jsonl"
    whole.write_bytes((tmp_path / "one").read_bytes() + (tmp_path / "two").read_bytes())
    (both,) = journal.read(whole)
    assert [both.outcomes[row]["ms_per_image"] for row in ROWS] == 3 * [1.0] + 9 * [2.0]


# ---- What it needs --------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_by_name():
    versions = {"torch": "2.11.0+cu130", "setuptools": "68.1.2", "pybind11": "3.0.0", "ninja": "1.13.0",
                "numpy": "2.1", "pillow": "12.0", "rich": "14.0.0", "pytest": "8.0"}  # fmt: skip

    def version(package):
        if package not in versions:
            raise metadata.PackageNotFoundError(package)
        return versions[package]

    needed, further = needs.missing(version)
    assert needed == [
        "setuptools>=77 is needed, this is 68.1.2",
        "safetensors>=0.4 is needed, and not installed",
    ]
    assert [line.split()[0] for line in further] == ["triton", "pytest-xdist"]
    versions |= {"setuptools": "77.0.3", "safetensors": "0.4.5", "triton": "3.6", "pytest-xdist": "3.6"}
    assert needs.missing(version) == ([], [])


def test_a_step_that_fails_does_not_end_the_others(tmp_path):
    make = shutil.which("make")
    if make is None:
        pytest.skip("needs make")
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" >> "$0.log"\n[ "$2" != "benchmarks.gpu" ]\n')
    python.chmod(0o755)
    command = [make, "gpu", f"PYTHON={python}", "STEP=smoke bench test sanitize", "RESULTS=here"]
    done = subprocess.run(command, cwd=fake_gpu.ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert "failed: smoke bench" in done.stderr
    modules = [line.split()[1] for line in (tmp_path / "python.log").read_text().splitlines()]
    assert modules == ["benchmarks.gpu", "benchmarks.gpu", "tests.npr_kernels.cuda.gpu_tests",
                       "tests.npr_kernels.cuda.sanitize"]  # fmt: skip
    assert all("--results here" in line for line in (tmp_path / "python.log").read_text().splitlines())
