"""Results files: what a run writes, and what is read."""

import json

import pytest
import torch

from detector.bench import results, table
from detector.bench.cases import STEM, Case
from detector.bench.compare import compare
from detector.bench.frame import Effort
from detector.bench.processes import SETTINGS
from tests import needs
from tests.detector.bench import fakes


@needs.extension
@pytest.mark.slow
def test_a_small_run(tmp_path):
    """All of it, with processes; an implementation of a name that is none says so."""
    case = Case("op", STEM, 1, 16, ("npr", "eager", "soup"))
    said = []
    found = results.run([case], Effort(seconds=300, turn=0.01, rounds=2), 1, said.append)
    file = tmp_path / "results.json"
    results.write(file, found)
    assert results.read(file) == found
    assert len(said) == len(SETTINGS)
    assert said[0].startswith("1/2  npr_stem: inference, 1 image of 16x16, default: npr ")
    assert found["machine"]["torch"] == torch.__version__
    assert found["floors_per_second"]["bytes"] > 0
    assert len(found["results"]) == 3 * len(SETTINGS)
    for row in found["results"]:
        if row["implementation"] == "soup":
            assert row["error"] == "KeyError: 'soup'"
        elif "error" not in row:
            assert row["of"][0] <= row["ms_per_image"] <= row["of"][1]
            assert row["calls"] >= 2
            assert 0 < row["floor_ms"] < row["ms_per_image"]
    assert "Not measured: npr_stem: inference, 1 of 16x16: soup: KeyError: 'soup'" in table.as_tables(found)
    assert all(change.factor == 1 for change in compare(found, found))


def test_what_is_no_results_file(tmp_path):
    file = tmp_path / "results.json"
    for text in ("verdict", "[]", "{}", '{"schema": "npr bench 99"}'):
        file.write_text(text)
        with pytest.raises(ValueError, match="no results file of npr bench"):
            results.read(file)
    with pytest.raises(FileNotFoundError):
        results.read(tmp_path / "none.json")


def test_round_trip(tmp_path):
    content = fakes.results({"npr": 1.0, "eager": "it broke"})
    results.write(tmp_path / "r.json", content)
    assert results.read(tmp_path / "r.json") == content
    assert results.as_text(content) == json.dumps(content, indent=1) + "\n"
