"""npr audit: what it prints and writes, and its exit status."""

import json
import shutil

import pytest

from detector.audit import Audit
from detector.cli import main
from tests.detector.audit.images import exif, make_set, save

OPTIONS = ["--workers", "0"]


def status_of(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def plant(path, pixels, rng):
    save(path, pixels, exif=exif(software="Maker"))


def test_a_leak(rng, tmp_path, capsys):
    make_set(tmp_path / "d", rng, plant, count=14)
    assert status_of("audit", tmp_path / "d", "--json", tmp_path / "a.json", *OPTIONS) == 1
    out, err = capsys.readouterr()
    assert "labels leak through" in out
    assert "software named" in out
    assert "28 images (14 real, 14 fake)" in err
    found = Audit.from_dict(json.loads((tmp_path / "a.json").read_text()))
    assert (found.reals, found.fakes) == (14, 14)
    assert {"metadata present", "software named"} <= {finding.name for finding in found.leaks}
    assert found.command.startswith("npr audit ")


def test_exit_status_follows_the_result(rng, tmp_path, capsys):
    """0 exactly where the result is clean; a duplicate across splits is not."""
    for split in ("train", "test"):
        make_set(tmp_path / "d", rng, count=8, split=f"{split}/x")
    status = status_of("audit", tmp_path / "d", "--json", "-", *OPTIONS)
    found = json.loads(capsys.readouterr().out)
    assert status == (not found["clean"])
    shutil.copy(tmp_path / "d/train/x/0_real/000.png", tmp_path / "d/test/x/0_real/copy.png")
    assert status_of("audit", tmp_path / "d", *OPTIONS) == 1
    assert "equal files in splits test, train" in capsys.readouterr().out
    # In one split there is nothing to cross, and --limit draws from it.
    assert status_of("audit", tmp_path / "d", "--split", "train", "--limit", "3", "--json", "-", *OPTIONS) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["reals"], found["fakes"], found["split"]) == (3, 3, "train")


def test_with_a_detector(rng, tmp_path, weights, capsys):
    pytest.importorskip("matplotlib", reason="reports need matplotlib")
    make_set(tmp_path / "d", rng, plant, count=12)
    status = status_of(
        "audit", tmp_path / "d", "--weights", f"mine={weights}", "--delivery", "jpeg:60", "--device", "cpu",
        "--json", tmp_path / "a.json", "--html", tmp_path / "a.html", *OPTIONS,
    )  # fmt: skip
    assert status == 1
    out = " ".join(capsys.readouterr().out.split())  # titles break where tables are narrow
    assert "mine: how far its score follows each fact within each label" in out
    assert "mine: how deliveries change its scores" in out
    (detector,) = json.loads((tmp_path / "a.json").read_text())["detectors"]
    assert [after["delivery"] for after in detector["delivered"]] == ["none", "jpeg:60"]
    page = (tmp_path / "a.html").read_text()
    assert "Bias: mine on" in page
    assert status_of("report", tmp_path / "a.json", "--out", tmp_path / "b.html") == 0
    assert "software named" in (tmp_path / "b.html").read_text()


def test_bad_input(rng, tmp_path, weights, capsys):
    make_set(tmp_path / "d", rng, count=2)
    for path in (tmp_path / "d").rglob("*.png"):
        path.write_bytes(b"")
    assert status_of("audit", tmp_path / "d", *OPTIONS) == 1
    assert "npr: error: no image in" in capsys.readouterr().err
    assert status_of("audit", tmp_path / "none") == 1
    assert status_of("audit", tmp_path / "d", "--html", tmp_path / "no/a.html") == 1
    assert status_of("audit", tmp_path / "d", "--delivery", "soup", "--weights", weights) == 1
    assert "delivery step 'soup'" in capsys.readouterr().err
