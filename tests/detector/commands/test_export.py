"""`npr export`: what it prints, writes and refuses."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from detector.cli import main
from detector.export.checking import LOGIT_BOUND
from detector.export.exported import Exported, Outputs, load_exported
from detector.models import CNNDetector, load_checkpoint, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")


@pytest.fixture
def pictures(tmp_path, rng):
    """Three of odd sizes, of which one is no image."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, size in {"a.png": (31, 45), "b.jpg": (52, 40)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "c.png").write_bytes(b"no image")
    return folder


def status_of(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def needs_onnx():
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")


def test_export_and_check(tmp_path, weights, pictures, capsys):
    needs_onnx()
    out = tmp_path / "detector.onnx"
    assert status_of("export", weights, "--out", out, "--check", pictures / "a.png", pictures / "b.jpg", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    sums = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (out, weights)]
    assert (result["file"], result["format"], result["sha256"], result["checkpoint"]) == (str(out), "onnx", *sums)
    check = result["check"]
    assert (check["images"], check["differing_verdicts"], check["errors"]) == (2, 0, {})
    assert check["largest_difference"]["logit"] <= LOGIT_BOUND
    exported = load_exported(out)
    assert exported.metadata.checkpoint == sums[1]
    model = load_checkpoint(weights)
    images = torch.randint(0, 256, (2, 3, 20, 31), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(exported(images).logits, model(images).flatten().double(), rtol=0, atol=1e-5)


def test_unreadable_images_are_told(tmp_path, weights, pictures, capsys):
    needs_onnx()
    arguments = ["export", weights, "--out", tmp_path / "d.onnx", "--check", pictures, tmp_path / "none.jpg"]
    assert status_of(*arguments, "--threads", "1") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert "onnx, of the checkpoint" in lines[0]
    assert lines[1].startswith(f"{pictures}/c.png: ")
    assert lines[2].startswith(f"{tmp_path}/none.jpg: cannot be read")
    assert lines[3].startswith("checked on 2 images: largest difference of logits ")
    assert lines[3].endswith("; verdicts that differ: 0")


@pytest.mark.parametrize("shift", [2 * LOGIT_BOUND, 100.0, float("nan")])
def test_differences_are_found(tmp_path, weights, pictures, capsys, monkeypatch, shift):
    """An engine that is off is told by the numbers and by the exit status, not a number being off as well."""
    needs_onnx()
    true_call = Exported.__call__

    def shifted(self, images):
        logits = true_call(self, images).logits
        moved = logits - shift * torch.where(logits > 0, 1, -1)  # 100 is far across the threshold
        return Outputs(moved, moved.sigmoid())

    monkeypatch.setattr(Exported, "__call__", shifted)
    arguments = ["export", weights, "--out", tmp_path / "d.onnx", "--check", pictures / "a.png", pictures / "b.jpg"]
    assert status_of(*arguments, "--json") == 1
    check = json.loads(capsys.readouterr().out)["check"]
    assert check["largest_difference"]["logit"] == pytest.approx(shift, rel=0.1, nan_ok=True)
    if shift == 100:
        assert check["differing_verdicts"] == 2


def test_the_name_follows_the_checkpoint(tmp_path, weights, capsys, monkeypatch):
    needs_onnx()
    monkeypatch.chdir(tmp_path)
    assert status_of("export", weights.parent) == 0
    assert (tmp_path / f"{weights.stem}.onnx").is_file()
    assert f"{weights.stem}.onnx: onnx" in capsys.readouterr().out


def test_bad_input_is_one_line(tmp_path, weights, capsys):
    cnn = tmp_path / "cnn.safetensors"
    save_checkpoint(cnn, CNNDetector())
    for arguments, message in (
        ([weights, "--out", tmp_path / "d.pt2"], "files of the format onnx end with .onnx"),
        ([weights, "--out", tmp_path / "no" / "d.onnx"], "there is no folder"),
        ([tmp_path / "none.pth", "--out", tmp_path / "d.onnx"], "none.pth: No such file or directory"),
        ([cnn, "--out", tmp_path / "d.onnx"], "only the NPRDetector is exported, not the CNNDetector"),
    ):
        assert status_of("export", *arguments) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert message in captured.err
        assert captured.err.count("\n") == 1
    assert status_of("export", weights, "--threads", "1") == 2
    assert status_of("export", weights, "--format", "soup") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["cnn.safetensors"]


def test_a_missing_engine_is_one_line(tmp_path, weights, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert status_of("export", weights, "--out", tmp_path / "d.onnx") == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("npr: error: an exported detector is written with onnx, which is not here")
    assert captured.err.count("\n") == 1


def test_help_does_not_wait_for_torch():
    code = "import sys; from detector.cli import _parser; _parser('export'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
