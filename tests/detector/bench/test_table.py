"""What is shown of results and comparisons."""

from detector.bench import table
from detector.bench.compare import compare
from tests.detector.bench.fakes import results

TIMES = {"npr": 2.0, "eager": 9.0, "openvino": "ModuleNotFoundError: No module named 'openvino'"}


def test_tables():
    text = table.as_tables(results(TIMES))
    lines = text.splitlines()
    assert lines[0] == (
        "Some CPU, 2 threads, avx2; torch 2.13.0, onnxruntime 1.2; 2000-01-01; load average 0.5 to 1.0. "
        "Floors: 100 G multiply-adds/s, 10 GB/s copied."
    )
    cells = {
        line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines if "|" in line
    }
    assert cells["model in inference, 4 of 256x256"] == ["kept, ms/image", "times faster", "of the floor", "MB"]
    assert cells["npr"] == ["2", "", "50 %", "3"]
    assert cells["eager"] == ["9", "4.50", "11 %", "3"]
    assert cells["openvino"] == ["not measured", "", "", ""]
    reason = "model in inference, 4 of 256x256: openvino: ModuleNotFoundError: No module named 'openvino'"
    assert f"Not measured: {reason}" in lines
    assert len({len(line) for line in lines if line.startswith("|")}) == 1


def test_tables_without_floors_and_memory():
    rows = [row | {"floor_ms": None, "memory": None} for row in results({"npr": 2.0})["results"]]
    changed = {"results": rows, "load_average": None, "floors_per_second": {"multiply_adds": None, "bytes": None}}
    text = table.as_tables(results({}, **changed))
    assert "Floors: not measured." in text
    assert "load average" not in text
    assert text.count("|") > 10


def test_comparison():
    changes = compare(results({"npr": 2.0, "eager": 9.0}), results({"npr": 3.0, "eager": 9.0}))
    assert table.as_lines(changes, 0.05) == [
        "model in inference, 4 of 256x256, kept: npr: 50.0 % slower beside eager",
        "1 compared: 1 slower by more than 5 %, 0 faster by as much",
    ]
    changes = compare(results({"npr": 2.0, "eager": 9.0}), results({"npr": "it broke", "eager": 9.0}))
    assert table.as_lines(changes, 0.05)[0].endswith("kept: npr: no longer measured: it broke")
    changes = compare(results({"npr": 2.0, "eager": 9.0}), results({"npr": 1.0, "eager": 9.0}))
    assert table.as_lines(changes, 0.05) == ["1 compared: 0 slower by more than 5 %, 1 faster by as much"]
