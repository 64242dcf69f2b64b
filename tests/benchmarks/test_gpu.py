"""The GPU benchmark's flow, on the CPU: processes, failures, results file, table, targets."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import gpu, record, table, targets
from detector.bench import machine, timing, works
from tests import needs
from tests.detector.bench import fakes

SMALL = ["--device", "cpu", "--batch", "2", "--size", "16"]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A run of the CPU's kernels, eager mode and a backend that is not here."""
    needs.require_extension()
    out = tmp_path_factory.mktemp("results") / "results.json"
    out.write_text('{"sanitizer": {"memcheck": "passed"}}')
    implementations = ["cpu", "eager", "cuda"]
    assert gpu.main([*SMALL, "--out", str(out), "--implementations", *implementations]) == 0
    return json.loads(out.read_text())


@pytest.fixture
def synthetic():
    """A results file with round figures: 1 GB/s, every image a megabyte, so that the floor is 1 ms an image."""
    rows = [
        gpu.head(name, work, "channels_last", gpu.parse(SMALL)) | {"bytes": 1e6, "ms_per_image": time}
        for work in works.WORKS
        for name, time in (("cuda", 1.25), ("triton", 1.5), ("eager", 10.0), ("compile", 4.0))
    ]
    return {"ours": "cuda", "floors_per_second": {"bytes": 1e9}, "results": rows}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, which the flow expects to miss")
def test_every_row_has_a_time_or_a_reason(results):
    rows = {name: [r for r in results["results"] if r["implementation"] == name] for name in ("cpu", "eager", "cuda")}
    for name, of_name in rows.items():
        assert [(r["op"], r["work"], r["layout"]) for r in of_name] == [
            (work.op, work.title, layout) for work, layout in gpu.plan(name)
        ]
    for row in rows["cpu"] + rows["eager"]:
        assert row["ms_per_image"] > 0, row
        assert row["of"][0] <= row["ms_per_image"] <= row["of"][1]
    assert all("backend 'cuda' is not available" in row["error"] for row in rows["cuda"])


def test_results_file(results):
    assert results["sanitizer"] == {"memcheck": "passed"}  # another step's section
    assert results["floors_per_second"]["bytes"] > 0
    assert results["machine"]["torch"] == torch.__version__
    text = table.markdown(results)
    assert "2 images of 16x16" in text
    assert "| memcheck | passed |" in text
    assert "Not measured: cuda" in text


def test_the_table_prints_again(results, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    command = [sys.executable, "-m", "benchmarks.table", str(file)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=gpu.ROOT).stdout
    assert printed.strip() == table.markdown(results).strip()


def test_the_table_of_npr_bench_prints_again(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(fakes.results({"npr": 2.0, "eager": 9.0})))
    command = [sys.executable, "-m", "benchmarks.table", str(file)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=gpu.ROOT).stdout
    assert printed.startswith("Some CPU, 2 threads, avx2")


@pytest.fixture
def child(monkeypatch):
    """Has another program run in place of the process that measures."""

    def place(script: str) -> None:
        monkeypatch.setattr(sys, "executable", "sh")
        run = subprocess.run
        monkeypatch.setattr(
            subprocess, "run", lambda command, **options: run(["sh", "-c", script, *command[3:]], **options)
        )

    return place


def test_a_process_that_dies_keeps_the_rows_before(child):
    row = '{"op": "npr_conv2d", "work": "forward, bfloat16", "layout": "channels_last", "ms_per_image": 1.5}'
    # $3 is the file of rows; the last line is cut off.
    child(f"""printf '{{"bytes_per_second": 5.0}}\\n{row}\\n{{"op": "npr_' >> $3; exit 3""")
    args = gpu.parse(SMALL)
    rows, bandwidth = gpu.measured_apart("eager", args, gpu.time.monotonic() + 60)
    assert bandwidth == 5.0
    assert rows[0]["ms_per_image"] == 1.5
    assert {row["error"] for row in rows[1:]} == {"its process ended with status 3"}
    assert len(rows) == len(list(gpu.plan("eager")))


def test_out_of_time(child):
    child("exec sleep 60")
    rows, bandwidth = gpu.measured_apart("compile", gpu.parse(SMALL), gpu.time.monotonic() - 1)
    assert bandwidth is None
    assert {row["error"] for row in rows} == {"out of time"}


def test_a_device_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="torch sees no CUDA device"):
        gpu.main([])


def test_targets_are_ratios_of_the_times(synthetic):
    judged = {(f"{t['op']} {t['work']}", t["measure"]): t for t in targets.judge(synthetic)}
    forward = "npr_conv2d forward, float32"
    assert judged[forward, "of the floor"]["reached"] == pytest.approx(0.8)
    assert judged[forward, "of the floor"]["met"] is False  # 0.85 is wanted
    assert judged[forward, "times faster than eager"]["reached"] == pytest.approx(8)
    assert judged[forward, "times faster than eager"]["met"] is True
    assert judged[forward, "times faster than torch.compile"]["reached"] == pytest.approx(3.2)
    assert judged[forward, "Triton's time over ours"]["met"] is True  # 1.2, at most 1.3
    assert judged["npr_stem inference, bfloat16", "times faster than eager"]["met"] is False


def test_targets_without_a_measurement(synthetic):
    synthetic["results"] = [row for row in synthetic["results"] if row["implementation"] == "cuda"]
    for target in targets.judge(synthetic):
        assert (target["reached"] is None) == (target["measure"] != "of the floor")
        assert (target["met"] is None) == (target["reached"] is None)


def test_table_of_a_gpu(synthetic):
    state = {"driver_version": "580.1"}
    synthetic |= {
        "date": "2000-01-01",
        "machine": {"torch": "2.11", "gpu": {"name": "Some GPU", "cuda": "13.0", "triton": "3.6", "state": state}},
        "input": "256 images of 256x256",
        "targets": targets.judge(synthetic),
    }
    text = table.markdown(synthetic)
    assert text.startswith("Some GPU, driver 580.1, CUDA 13.0, torch 2.11, Triton 3.6, 2000-01-01")
    assert "| eager, channels_last | 10.00 | 8.0x | 10 % |" in text
    assert "| npr_conv2d: forward, bfloat16 | of the floor | 0.85 | 0.80 | missed |" in text


def test_least_traffic():
    sizes = {(work.op, work.name, work.dtype): work.bytes(256, 256, work.dtype.itemsize) for work in works.WORKS}
    images = 3 * 256 * 256
    assert sizes["npr_conv2d", "forward", torch.bfloat16] == images + 64 * 128 * 128 * 2
    assert sizes["npr_stem", "inference", torch.float32] == images + 64 * 64 * 64 * 4
    training = sizes["npr_stem", "training, forward + backward", torch.bfloat16]
    assert training == 3 * images + 64 * 64 * 64 * (2 + 2 + 1 + 1)


def test_rotation_is_larger_than_the_cache():
    args = gpu.parse(SMALL)
    rotation = gpu.draw_rotation(args)
    assert len(rotation) == 2
    assert not torch.equal(*rotation)


# ---- The clock of a GPU, with events that are not there ----------------------------------------------------------


@pytest.fixture
def device(monkeypatch):
    """A device whose work takes a second a call, and on which the host waits for nothing else."""
    state = SimpleNamespace(now=0.0, log=[])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = state.now

        def elapsed_time(self, end):
            return 1e3 * (end.time - self.time)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: state.log.append(("sleep", cycles)))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: state.log.append("synchronize"))
    return state


def test_events_enclose_each_call(device):
    def call(i):
        device.log.append(i)
        device.now += 1

    assert timing.seconds(call, torch.device("cuda"), rounds=2, calls=3) == [1.0] * 6
    steps = [entry[0] if isinstance(entry, tuple) else entry for entry in device.log]
    warm = [0, 1, 2, "synchronize", 3, 4, 5, "synchronize"]
    assert steps == [*warm, "sleep", 6, 7, 8, "synchronize", "sleep", 9, 10, 11, "synchronize"]
    assert all(entry[1] <= 0.5 * 3e9 for entry in device.log if isinstance(entry, tuple))


def test_nvidia_smi(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234"))
    commands = []

    def run(command, **options):
        commands.append(command)
        return SimpleNamespace(stdout="580.1, 1980, 3201, 1980, 3201, 40, 120.5, 700.0\n")

    monkeypatch.setattr(subprocess, "run", run)
    state = machine.nvidia_smi(torch.device("cuda", 0))
    assert state["driver_version"] == "580.1"
    assert state["power.limit"] == "700.0"
    assert commands[0][:2] == ["nvidia-smi", "--id=GPU-1234"]

    def missing(command, **options):
        raise FileNotFoundError("no nvidia-smi")

    monkeypatch.setattr(subprocess, "run", missing)
    assert machine.nvidia_smi(torch.device("cuda", 0)) == {"error": "no nvidia-smi"}


def test_sections_are_kept(tmp_path):
    file = tmp_path / "new" / "results.json"
    record.update(file, {"a": 1, "b": 1})
    record.update(file, {"b": 2})
    assert json.loads(file.read_text()) == {"a": 1, "b": 2}
