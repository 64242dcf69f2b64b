"""`npr robustness`: what it writes, and that it goes on."""

import json

import numpy as np
import pytest
import torch

from detector.cli import main
from detector.data import Preprocessing
from detector.evaluation import Robustness, read_results
from detector.models import NPRDetector, save_checkpoint
from tests.detector.evaluation.stub import make_tree

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_checkpoint(folder / f"w{seed}.safetensors", NPRDetector(Preprocessing(crop=16)))
    return [folder / "w0.safetensors", folder / "w1.safetensors"]


@pytest.fixture
def data(tmp_path):
    return make_tree(tmp_path / "data", ["alpha", "beta"], np.random.default_rng(), size=(16, 16))


def status_of(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


@pytest.fixture
def scored(monkeypatch):
    """How many collections are scored."""
    from detector.evaluation import scoring

    calls = []

    def counted(*arguments, **options):
        calls.append(options["task"])
        return scoring.score_collection(*arguments, **options)

    # The package's attribute of that name is the function, not the module.
    import sys

    monkeypatch.setattr(sys.modules["detector.evaluation.robustness"], "score_collection", counted)
    return calls


def test_writes_and_goes_on(data, weights, tmp_path, capsys, scored):
    out, page = tmp_path / "r.json", tmp_path / "r.html"
    command = ["robustness", data, "--out", out, "--sweeps", "blur,view", "--limit", "1", "--weights", weights[0]]
    assert status_of(*command, weights[1], "--html", page) == 0
    results = [Robustness.from_dict(result) for result in read_results(out)]
    assert [result.provenance.detector for result in results] == ["w0", "w1"]
    assert [len(result.points) for result in results] == [8, 8]
    assert all(point.images == 4 for point in results[0].points.values())
    assert results[0].provenance.command.startswith(f"npr robustness {data}")
    assert len(scored) == 16
    assert "w1" in page.read_text()
    printed = capsys.readouterr()
    assert "blur 0.5" in printed.out
    assert "w1, resized (8 of 8)" in printed.err

    # Nothing is measured again, nor lost when only one of the detectors is asked for.
    before = out.read_bytes()
    assert status_of(*command) == 0
    assert len(scored) == 16
    assert [result["detector"] for result in json.loads(out.read_text())] == ["w0", "w1"]
    assert json.loads(out.read_text())[0]["points"] == json.loads(before)[0]["points"]

    # A file of a run that was killed.
    kept = json.loads(before)
    kept[0]["points"] = kept[0]["points"][:5]
    out.write_text(json.dumps(kept))
    assert status_of(*command) == 0
    assert len(scored) == 19
    assert json.loads(out.read_text())[0]["points"] == json.loads(before)[0]["points"]

    # Other images are measured anew.
    assert status_of(*command, "--seed", "1") == 0
    assert len(scored) == 27


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--sweeps", "fog"], 1, "--sweeps: unknown fog; there are blur, jpeg"),
        (["--out", "{tmp}/no/r.json"], 1, "there is no folder"),
        (["--out", "{tmp}/other.json"], 1, "is there and is not to be overwritten"),
        (["--out", "{tmp}/text.json"], 1, "no JSON"),
        (["--generators", "gamma"], 1, "no generator gamma"),
    ],
)
def test_bad_input(arguments, status, message, data, weights, tmp_path, capsys):
    (tmp_path / "other.json").write_text('{"kind": "evaluation"}')
    (tmp_path / "text.json").write_text("hello")
    options = ["--weights", weights[0], "--out", tmp_path / "r.json"]
    arguments = [argument.format(tmp=tmp_path) for argument in arguments]
    assert status_of("robustness", data, *options, *arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert (tmp_path / "text.json").read_text() == "hello"
