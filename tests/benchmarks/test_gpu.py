"""The GPU benchmark on the CPU: plan, results, results file, table, targets."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from benchmarks import record, table, targets
from benchmarks.gpu import check, device, kernels, plan, report
from benchmarks.gpu.__main__ import ROOT, facts_of_run, main, parse
from benchmarks.gpu.device import TorchDevice
from benchmarks.gpu.journal import Row
from detector.bench import machine, timing, works
from tests import needs
from tests.detector.bench import fakes
from tests.npr_kernels import implementations

SMALL = ["bench", "--device", "cpu", "--batch", "2", "--size", "16"]
CPU = torch.device("cpu")

of_one_run = pytest.mark.xdist_group("GPU journal")  # tests that share it


# ---- The plan -------------------------------------------------------------------------------------------------------


def test_the_plan_begins_with_what_training_uses():
    rows = plan.bench(plan.implementations(torch.device("cuda")))
    assert [row.op for row in rows[:4]] == ["memory", "memory", "memory", "npr_conv2d"]
    assert list(dict.fromkeys(row.worker for row in rows)) == ["cuda", "eager", "triton", *works.MAX_AUTOTUNE]
    for name in ("cuda", "eager", "triton"):
        of_name = [row for row in rows if row.worker == name and row.op != "memory"]
        assert all("haar" in row.work for row in of_name[-6:])
        first = [
            row.work.endswith("bfloat16") and row.layout == "channels_last" for row in of_name if "haar" not in row.work
        ]
        assert first == sorted(first, reverse=True)
        assert sum(first) >= 7
    assert len(set(rows)) == len(rows)


def test_every_row_of_the_plan_is_some_work():
    rows = plan.bench(plan.implementations(torch.device("cuda")))
    for row in [*rows, *plan.smoke(["cuda", "triton", "eager"])]:
        assert row.op == plan.MEMORY or plan.work_of(row).title == row.work
    assert {row.implementation for row in plan.smoke(["cuda", "eager"])} == {"cuda", "cuda, fast"}


# ---- The device -----------------------------------------------------------------------------------------------------


@pytest.fixture
def cpu():
    needs.require_extension()
    return TorchDevice(CPU, 2, 16)


def test_every_op_is_right_on_tiny_images(cpu):
    rows = plan.smoke(["cpu"])
    assert {row.work.split(",")[0] for row in rows} == {work.name for work in kernels.SMOKE}
    for row in rows:
        outcome = cpu.measure(row)
        assert "wrong" not in outcome, (row, outcome)
        assert "ms_per_image" not in outcome


def test_tritons_ops_are_right_on_tiny_images(monkeypatch):
    """In its interpreter, which is slow: on one image, of the residual that has the most to it."""
    implementations.triton("triton-interpreter")
    monkeypatch.setattr(device, "SMOKE", (1, 3, 4, 6))
    for row in plan.smoke(["triton"]):
        if "npr+haar" in row.work and row.implementation == "triton":
            outcome = TorchDevice(CPU, 2, 16).measure(row)
            assert "wrong" not in outcome, (row, outcome)


@pytest.mark.parametrize("op", dict.fromkeys(work.name for work in kernels.KERNELS))
@pytest.mark.parametrize("plant", ["a factor", "an element", "not a number", "a shape"])
def test_what_is_wrong_has_no_time(op, plant, cpu, monkeypatch, rng):
    """A twentieth too large, or one element that is twice the largest, is far more than rounding explains."""

    def spoilt(result):
        result = result.clone()
        if plant == "a factor":
            return result + result // 20 if result.dtype == torch.int64 else result * 1.05
        if plant == "a shape":
            return result[:-1]
        place = result.view(-1) if result.is_contiguous() else result.permute(0, 2, 3, 1).view(-1)
        largest = 2 * result.abs().max()
        place[int(rng.integers(len(place)))] = float("nan") if plant == "not a number" else largest
        return result

    if plant == "not a number" and op == "patch_moments":
        pytest.skip("integers have none")
    work = next(work for work in kernels.KERNELS if work.name == op)
    prepare = work.prepare

    def planted(case):
        call = prepare(case)

        def spoilt_call(i):
            result = call(i)
            return spoilt(result) if isinstance(result, torch.Tensor) else (spoilt(result[0]), *result[1:])

        return spoilt_call

    row = Row("bench", work.op, work.title, "cpu", "channels_last")
    assert cpu.measure(row)["ms_per_image"] > 0
    monkeypatch.setattr(plan, "work_of", lambda row: work._replace(prepare=planted))
    outcome = cpu.measure(row)
    assert "at most" in outcome["wrong"]
    assert "ms_per_image" not in outcome
    json.dumps(outcome, allow_nan=False)


def test_deviation_of_elements_and_of_sums(rng):
    """One element of ten thousand is as wrong as the largest is large: all of it, or a hundredth."""
    truth = torch.from_numpy(rng.choice([-1.0, 1.0], (100, 100)))
    result = truth.clone()
    result[tuple(rng.integers(100, size=2))] += 1
    assert check.norm_of_error(result, truth, sums=False) == pytest.approx(1)
    assert check.norm_of_error(result, truth, sums=True) == pytest.approx(0.01)
    assert check.norm_of_error(truth, truth, sums=True) == check.norm_of_error(truth * 0, truth * 0, sums=False) == 0
    assert check.norm_of_error(truth, truth * 0, sums=True) == float("inf")


def test_bandwidths(cpu):
    for row in plan.bench(["cpu"])[:3]:
        assert cpu.measure(row)["bytes_per_second"] > 0


def test_images_are_larger_than_the_cache(cpu):
    assert len(cpu._rotation) == 2
    assert not torch.equal(*cpu._rotation)


# ---- A run ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of some rows of the CPU's kernels and of a backend that is not here; the folder of its results."""
    needs.require_extension()
    folder = tmp_path_factory.mktemp("results")
    record.update(record.path(machine.cpu_name(), folder), {"sanitizer": {"memcheck": "passed"}})
    rows = plan.bench(["cpu", "cuda"])
    some = [row for row in rows if row.op == "memory" or row.work in ("forward, bfloat16", "conv2d, float32")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "bench", lambda names: some)
        status = main([*SMALL, "--results", str(folder), "--implementations", "cpu", "cuda"])
    assert status == 0
    assert [log.name for log in sorted((folder / "workers").iterdir())] == ["bench-1.log", "bench-2.log"]
    return folder


@pytest.fixture
def results(run):
    return json.loads(record.path(machine.cpu_name(), run).read_text())


@of_one_run
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, which the flow expects to miss")
def test_every_row_has_a_time_or_a_reason(results):
    rows = {name: [r for r in results["results"] if r["implementation"] == name] for name in ("cpu", "cuda")}
    for row in rows["cpu"]:
        assert row["of"][0] <= row["ms_per_image"] <= row["of"][1]
        assert 0 <= row["deviation"] < 0.01
    assert len(rows["cuda"]) == len(rows["cpu"]) == 3
    assert all("backend 'cuda' is not available" in row["error"] for row in rows["cuda"])


@of_one_run
def test_results_file(results):
    assert results["sanitizer"] == {"memcheck": "passed"}  # another step's section
    assert all(results["floors_per_second"][kind] > 0 for kind in ("bytes", "written", "read"))
    assert results["machine"]["torch"] == torch.__version__
    assert {row["bytes"] for row in results["results"]} == {3 * 256 + 64 * 64 * 2, 3 * 256 + 64 * 64 * 4}
    assert all(row["written"] + row["read"] == row["bytes"] for row in results["results"])
    text = table.markdown(results)
    assert "2 images of 16x16" in text
    assert "| memcheck | passed |" in text
    assert "Not measured: cuda" in text


@of_one_run
def test_the_report_is_made_of_the_journal(run, results, tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_bytes((run / "rows.jsonl").read_bytes())
    assert main(["report", "--results", str(tmp_path)]) == 0
    again = json.loads(record.path(machine.cpu_name(), tmp_path).read_text())
    assert again["results"] == results["results"]
    assert capsys.readouterr().out.startswith(table.heading(results))
    with pytest.raises(SystemExit, match="tells of no run"):
        main(["report", "--results", str(tmp_path / "nothing")])


def test_other_sources_or_images_are_another_run():
    device = {"name": "GPU"}
    first = facts_of_run(parse(SMALL), device)
    assert facts_of_run(parse(SMALL), device) == first
    for other in (facts_of_run(parse([*SMALL, "--size", "32"]), device), facts_of_run(parse(SMALL), {"name": "other"})):
        assert other["of"] != first["of"]


def test_ours_failing_is_the_exit_status():
    row = {"op": "a", "work": "b", "implementation": "cuda, fast", "layout": ""}
    assert not report.failed({"results": [row]}, "cuda")
    for kind, section in (("wrong", "smoke"), ("error", "results")):
        assert report.failed({section: [row | {kind: "x"}]}, "cuda")
        assert not report.failed({section: [row | {kind: "x", "implementation": "compile"}]}, "cuda")


@pytest.fixture
def synthetic():
    """A results file with round figures: 1 GB/s, every image a megabyte, so that the floor is 1 ms an image."""
    rows = [
        {"setting": "warm", "op": work.op, "work": work.title, "implementation": name, "layout": "channels_last"}
        | {"bytes": 1e6, "ms_per_image": time}
        for work in works.WORKS
        for name, time in (("cuda", 1.25), ("triton", 1.5), ("eager", 10.0), ("compile", 4.0))
    ]
    return {"ours": "cuda", "floors_per_second": {"bytes": 1e9}, "results": rows}


@of_one_run
def test_the_table_tells_what_is_wrong(results):
    rows = results["results"]
    names = [row["implementation"] for row in rows]
    for row in rows:
        row.pop("error", None)
        row.pop("ms_per_image", None)
    rows[0]["wrong"] = "off by 3, at most 0.1 is right"
    rows[1] |= {"error": "launch failed", "fault": "illegal access"}
    smoke = [rows[0], rows[1] | {"work": "stem"}, rows[2] | {"work": "stem"}]
    results |= {"smoke": smoke, "kernels": [{"work": "moments", "us": 50.0, "of": [49.0, 51.0], "bytes": 1e8}]}
    text = table.markdown(results)
    assert (
        f"Wrong: {names[0]}, {rows[0]['op']} {rows[0]['work']} {rows[0]['layout']}: off by 3, at most 0.1 is right"
        in text
    )
    assert f"Not measured: {names[1]}, {rows[1]['op']} {rows[1]['work']}: launch failed (illegal access)" in text
    assert f"| {names[0]}, {rows[0]['layout']} | wrong |" in text
    assert "Smoke: 1 of 3 ops" in text
    assert "| moments | 50.0 | 49.0 to 51.0 | 2000 |" in text


@of_one_run
def test_the_table_prints_again(results, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    command = [sys.executable, "-m", "benchmarks.table", str(file)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed.strip() == table.markdown(results).strip()


def test_the_table_of_npr_bench_prints_again(tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(fakes.results({"npr": 2.0, "eager": 9.0})))
    command = [sys.executable, "-m", "benchmarks.table", str(file)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert printed.startswith("Some CPU, 2 threads, avx2")


def test_a_device_that_is_not_there(tmp_path):
    arguments = ["bench", "--device", "cuda:63", "--results", str(tmp_path), "--seconds-to-start", "300"]
    with pytest.raises(SystemExit, match=r"benchmarks\.gpu: its process ended with status 1: .*CUDA"):
        main(arguments)


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
    for work in (*works.WORKS, *kernels.KERNELS):
        written = work.written(256, 256, work.dtype.itemsize)
        assert 0 <= written <= work.bytes(256, 256, work.dtype.itemsize)
        results = {"forward": 64 * 128 * 128, "inference": 64 * 64 * 64}.get(work.name)
        assert results is None or work.op == "NPRDetector" or written == results * work.dtype.itemsize


# ---- The clock of a GPU, with events that are not there ----------------------------------------------------------


@pytest.fixture
def clock(monkeypatch):
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


def test_events_enclose_each_call(clock):
    def call(i):
        clock.log.append(i)
        clock.now += 1

    assert timing.seconds(call, torch.device("cuda"), rounds=2, calls=3) == [1.0] * 6
    steps = [entry[0] if isinstance(entry, tuple) else entry for entry in clock.log]
    warm = [0, 1, 2, "synchronize", 3, 4, 5, "synchronize"]
    assert steps == [*warm, "sleep", 6, 7, 8, "synchronize", "sleep", 9, 10, 11, "synchronize"]
    assert all(entry[1] <= 0.5 * 3e9 for entry in clock.log if isinstance(entry, tuple))


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


def test_rows_are_merged_by_their_key(tmp_path):
    file = tmp_path / "results.json"
    row = {"op": "a", "work": "b", "implementation": "c", "layout": "d", "ms_per_image": 1.0}
    other = row | {"layout": "e"}
    record.update(file, {"results": [row, other], "smoke": [row]})
    missed = other | {"error": "not reached", "left": True}
    merged = record.update(file, {"results": [row | {"ms_per_image": 2.0}, missed, missed | {"op": "z"}]})
    assert merged == json.loads(file.read_text())
    assert merged["results"] == [row | {"ms_per_image": 2.0}, other, missed | {"op": "z"}]
    assert merged["smoke"] == [row]
