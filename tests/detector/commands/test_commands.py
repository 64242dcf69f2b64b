"""The command line, in this process: what it prints, where, and with which exit status."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from detector.cli import COMMANDS, main
from detector.data import find_decoder
from detector.models import load_checkpoint, read_metadata, save_checkpoint
from npr_kernels import __version__
from tests import needs
from tests.detector.training.folders import make_data, make_split


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """a.png 20x30, b.jpg 20x30, deep/c.png 24x24, d.png broken, note.txt."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    (folder / "deep").mkdir()
    for name, size in {"a.png": (30, 20), "b.jpg": (30, 20), "deep/c.png": (24, 24)}.items():
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    (folder / "d.png").write_bytes(b"\x89PNG broken")
    (folder / "note.txt").write_text("no image")
    return folder


def status_of(*arguments):
    """The exit status, whether returned or raised by argparse."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


def detect_json(capsys, *arguments):
    status = status_of("detect", "--json", *arguments)
    return status, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert status_of(command, "--help") == 0
    assert f"usage: npr {command}" in capsys.readouterr().out


def test_help_and_version(capsys):
    assert status_of("--help") == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)
    assert status_of("--version") == 0
    assert capsys.readouterr().out == f"npr {__version__}\n"


def test_help_does_not_wait_for_torch():
    code = "import sys; from detector.cli import _parser; _parser('train'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["detect"],
        ["detect", "a.png", "--threshold", "1"],
        ["detect", "a.png", "--threshold", "nan"],
        ["detect", "a.png", "--confidence", "1"],
        ["train", "data", "--crop", "0"],
        ["train", "data", "--lr", "-1"],
        ["train", "data", "--val-fraction", "2"],
        ["train", "data", "--resume", "--force"],
        ["train", "data", "--recipe", "soup"],
        ["eval", "data", "--weights", "w", "--split", "holdout"],
    ],
)
def test_wrong_usage(arguments, capsys):
    assert status_of(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", "{tmp}", "--weights", "{tmp}/none.pth"], "none.pth: No such file or directory"),
        (["eval", "{tmp}", "--weights", "{tmp}/text.pth"], "text.pth: neither a safetensors nor a PyTorch"),
        (["eval", "{tmp}/nowhere", "--weights", "{w}"], "nowhere does not exist"),
        (["eval", "{tmp}", "--weights", "{w}"], "no folders of real and fake images"),
        (["eval", "{tmp}", "--weights", "{w}", "--csv", "{tmp}/no/x.csv"], "there is no folder"),
        (["eval", "{tmp}", "--weights", "{w}", "--json", "{tmp}"], "it is a folder"),
        (["eval", "{tmp}", "--weights", "{w}", "--device", "abacus"], "--device abacus: no such device"),
        (["eval", "{tmp}", "--weights", "{w}", "--device", "cuda:99"], "--device cuda:99: no such device"),
        (["detect", "x.png", "--weights", "{tmp}/none.pth"], "none.pth: No such file or directory"),
        (["train", "{tmp}/nowhere"], "nowhere does not exist"),
        (["train", "{tmp}", "--resume", "--out", "{tmp}/no"], "config.json: No such file or directory"),
        (["train", "{tmp}", "--policy", "resize", "--crop", "512"], "resize must be at least crop"),
    ],
)
def test_bad_input_is_one_line(arguments, message, tmp_path, weights, capsys):
    (tmp_path / "text.pth").write_text("a photograph of a cat")
    assert status_of(*(argument.format(tmp=tmp_path, w=weights) for argument in arguments)) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert captured.err.startswith("npr: error: ")
    assert captured.err.count("\n") == 1


def test_interruption(monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr("detector.commands.info.run", interrupted)
    assert status_of("info") == 130
    assert capsys.readouterr().err == "npr: interrupted\n"


def test_info(capsys):
    assert status_of("info", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["version"] == __version__
    assert facts["backends"]["reference"] == {"available": True}
    assert facts["decoder"] == find_decoder().to_dict()
    assert status_of("info") == 0
    out = capsys.readouterr().out
    assert "backend reference" in out
    assert str(torch.__version__) in out
    assert str(find_decoder()) in out


def test_detect_keeps_the_order(pictures, weights, capsys):
    """A bad file in the middle, a size that waits for its batch, a folder and a file given twice."""
    files = [pictures / "a.png", pictures / "d.png", pictures / "deep", pictures / "b.jpg", pictures / "a.png"]
    status, lines = detect_json(capsys, *files, "--weights", weights, "--no-unsure")
    assert status == 1
    assert [line["path"].removeprefix(f"{pictures}/") for line in lines] == [
        "a.png", "d.png", "deep/c.png", "b.jpg", "a.png",
    ]  # fmt: skip
    assert lines[1].keys() == {"path", "error"}
    assert (lines[0]["width"], lines[0]["height"]) == (20, 30)
    assert lines[0] == lines[4]
    model = load_checkpoint(weights)
    for line in (lines[0], lines[2], lines[3]):
        pixels = torch.from_numpy(np.array(Image.open(line["path"]))).permute(2, 0, 1)
        with torch.no_grad():
            assert line["score"] == pytest.approx(model(pixels[None]).sigmoid().item(), abs=1e-5)
        assert line["verdict"] == ("fake" if line["score"] > 0.5 else "real")


def test_detect_names_file_model_decoder_and_versions(pictures, weights, capsys):
    _, (line, broken) = detect_json(capsys, pictures / "b.jpg", pictures / "d.png", "--weights", weights)
    assert line["sha256"] == hashlib.sha256((pictures / "b.jpg").read_bytes()).hexdigest()
    assert line["model"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert line["decoder"] == str(find_decoder())
    assert line["versions"] == {"npr-kernels": __version__, "torch": torch.__version__}
    assert broken.keys() == {"path", "error"}


@pytest.mark.slow
def test_detect_gives_a_file_the_same_bytes_each_time(tmp_path, weights, rng):
    """Alone, twice, among files of its size and of others, in any order, on one thread and on two."""
    for i in range(6):
        size = (96, 96, 3) if i % 2 else (*rng.integers(20, 90, 2), 3)
        pixels = rng.integers(0, 256, size) * rng.uniform(0.2, 1)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{i}.{'jpg' if i < 3 else 'png'}")
    files = sorted(tmp_path.iterdir())
    lists = {
        "1": [[*files, files[1], *reversed(files)], [files[1]], [files[1], files[3], files[5]]],
        "2": [files, [files[3]], [files[5], files[3], files[1], files[3]]],
    }
    code = "import json, sys; from detector.cli import main\nfor words in json.loads(sys.argv[1]): main(words)"
    lines = {}
    for threads, orders in lists.items():
        words = [["detect", "--json", "--weights", str(weights), *map(str, order)] for order in orders]
        words += [[*words[0], "--batch-size", "1"]]
        environment = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, json.dumps(words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        found = done.stdout.splitlines()
        assert len(found) == sum(len(order) for order in orders) + len(orders[0])
        for line in found:
            lines.setdefault(json.loads(line)["path"], set()).add(line)
    assert lines.keys() == set(map(str, files))
    assert all(len(versions) == 1 for versions in lines.values())
    assert len({json.loads(line)["score"] for (line,) in lines.values()}) == 6


def test_detect_a_pipe(pictures, weights):
    """Read once, though it is hashed and decoded."""
    command = f"{sys.executable} -m detector.cli detect --json --weights {weights} <(cat {pictures}/a.png)"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    line = json.loads(done.stdout)
    assert line["sha256"] == hashlib.sha256((pictures / "a.png").read_bytes()).hexdigest()
    assert (line["width"], line["height"]) == (20, 30)


def test_another_decoder_is_said_once(pictures, weights):
    """On standard error in one line, and in every line of the result."""
    code = (
        "import sys, numpy as np; from detector.data import decoder; from detector.cli import main\n"
        "decoder._test_picture = lambda: np.zeros((11, 22, 3), np.uint8)\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    files = [pictures / "a.png", pictures / "b.jpg", pictures / "deep"]
    command = [sys.executable, "-c", code, "detect", "--json", "--weights", weights, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    said = needs.besides_fallback(done.stderr)
    assert said.startswith("npr: warning: Pillow ")
    assert "its chroma repeated" in said
    assert said.count("\n") == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == 3
    assert all("of 255 off, its chroma repeated" in line["decoder"] for line in lines)


def test_detect_folder_of_a_training(pictures, weights, capsys):
    status, lines = detect_json(capsys, pictures / "deep", "--weights", weights.parent)
    assert (status, len(lines)) == (0, 1)


def test_detect_patterns_and_standard_input(pictures, weights, capsys, monkeypatch):
    status, lines = detect_json(capsys, f"{pictures}/**/*.png", "--weights", weights)
    assert status == 1
    assert len(lines) == 3
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{pictures}/a.png\r\n\n{pictures}/b.jpg\n"))
    status, lines = detect_json(capsys, "-", "--weights", weights)
    assert status == 0
    assert [line["path"] for line in lines] == [f"{pictures}/a.png", f"{pictures}/b.jpg"]


def test_detect_names_what_is_not_there(pictures, weights, capsys, tmp_path):
    odd = tmp_path / "[1]*.png"
    Image.new("RGB", (16, 16)).save(odd)
    arguments = [tmp_path / "gone.png", f"{tmp_path}/*.webp", odd, tmp_path / "empty"]
    (tmp_path / "empty").mkdir()
    status, lines = detect_json(capsys, *arguments, "--weights", weights)
    assert status == 1
    assert [line.get("error") for line in lines] == [
        "cannot be read (No such file or directory)", "matches no file", None, "is a folder without images",
    ]  # fmt: skip


def test_detect_table(pictures, weights, capsys):
    assert status_of("detect", pictures / "a.png", pictures / "d.png", "--weights", weights, "--no-unsure") == 1
    head, good, bad = capsys.readouterr().out.splitlines()
    assert head.split() == ["score", "verdict", "size", "path"]
    assert good.split()[1:] == [good.split()[1], "20x30", f"{pictures}/a.png"]
    assert bad.split()[:3] == ["-", "error", "-"]


def test_detect_reads_large_images_in_part(tmp_path, weights, rng, capsys, monkeypatch):
    """Large means more than one pass here, so that the image may be small; thin, so that windows are."""
    monkeypatch.setattr("detector.models.inference.MAX_PIXELS", 2**14)
    for name, size in {"large.png": (33, 12001), "small.png": (40, 30)}.items():
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(tmp_path / name)
    arguments = (tmp_path / "large.png", tmp_path / "small.png", "--weights", weights, "--no-unsure")
    _, (large, small) = detect_json(capsys, *arguments, "--exact")
    for line in (large, small):
        assert (line["read"], line["interval"], line["exact"]) == (1, [line["score"]] * 2, True)
    sure = ("--threshold", "1e-9", "--confidence", "0.999999")
    _, (part, whole) = detect_json(capsys, *arguments, *sure)
    assert whole == small | {"threshold": 1e-9, "verdict": "fake", "confidence": 0.999999}
    assert not part["exact"]
    assert 0 < part["read"] < 0.5
    low, high = part["interval"]
    assert 1e-9 < low <= large["score"] <= high
    assert low < part["score"] < high
    _, (plain, _) = detect_json(capsys, *arguments, *sure, "--no-unsure")
    assert {name: plain[name] for name in ("score", "read", "interval")} == {
        name: part[name] for name in ("score", "read", "interval")
    }
    status_of("detect", *arguments, *sure)
    _, row, note, _ = capsys.readouterr().out.splitlines()
    assert row.endswith("large.png")
    assert note.strip() == f"read: {100 * part['read']:.2g} %, which gives the whole a score of {low:.4f} to {high:.4f}"
    # Undecided: the threshold is the very score.
    _, (line, _) = detect_json(capsys, *arguments, "--threshold", repr(large["score"]), "--confidence", "0.999999")
    assert line == large | {"threshold": large["score"], "verdict": "real", "confidence": 0.999999}
    assert status_of("rank", *arguments, "--json") == 0
    ranked = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {line["score"] for line in ranked} == {large["score"], small["score"]}
    assert status_of("detect", *arguments, "--exact", "--confidence", "0.9") == 2


def test_detect_no_verdict_on_nothing(weights, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert detect_json(capsys, "-", "--weights", weights) == (0, [])


def test_detect_ends_quietly_when_nobody_reads(pictures, weights):
    command = (
        f"{sys.executable} -m detector.cli detect {pictures}/a.png --weights {weights} | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.strip() in ("0", "141")
    assert needs.besides_fallback(done.stderr) == ""


def test_eval(tmp_path, weights, capsys):
    make_split(tmp_path / "test" / "alpha", 2, 5)
    make_split(tmp_path / "test" / "beta", 3, 6)
    (tmp_path / "test/beta/0_real/bad.png").write_bytes(b"")
    assert (
        status_of("eval", tmp_path, "--weights", weights, "--csv", tmp_path / "t.csv", "--json", tmp_path / "t.json")
        == 0
    )
    captured = capsys.readouterr()
    assert "alpha" in captured.out
    assert "Acc fake" in captured.out
    assert "bad.png: is empty" in captured.err
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [(row["generator"], row["images"]) for row in rows] == [("alpha", "4"), ("beta", "6"), ("mean", "10")]
    content = json.loads((tmp_path / "t.json").read_text())
    assert content["preprocessing"]["policy"] == "native"

    assert status_of("eval", tmp_path / "test", "--weights", weights, "--generators", "beta", "--json", "-") == 0
    assert [row["generator"] for row in json.loads(capsys.readouterr().out)["generators"]] == ["beta"]


def test_eval_of_one_class(tmp_path, weights, capsys):
    make_split(tmp_path / "test" / "alpha", 2, 5)
    for path in (tmp_path / "test/alpha/1_fake").iterdir():
        path.unlink()
    assert status_of("eval", tmp_path, "--weights", weights) == 0
    captured = capsys.readouterr()
    assert "alpha: no fakes, so average precision and AUC are undefined" in captured.err


def test_train_on_deliveries(tmp_path, capsys):
    make_data(tmp_path / "d", train=4)
    options = ["--out", tmp_path / "run", "--augment", "delivery", "--jpeg-encoders", "pillow"]
    assert status_of("train", tmp_path / "d", "--crop", "16", "--epochs", "1", *options) == 0
    recipe = read_metadata(tmp_path / "run/last.safetensors")["recipe"]
    assert recipe["delivery_probability"] == pytest.approx(2 / 3)
    assert (recipe["blur_probability"], recipe["jpeg_probability"]) == (0, 0)
    assert status_of("train", tmp_path / "d", "--resume", *options) == 0
    capsys.readouterr()
    assert status_of("train", tmp_path / "d", "--resume", "--out", tmp_path / "run", "--augment", "jpeg") == 1
    assert "jpeg_probability 0.0, not 0.5; delivery_probability 0.6" in capsys.readouterr().err


def test_the_detectors_own_threshold(pictures, weights, tmp_path, capsys):
    """Between the scores of two pictures, in the checkpoint or as an option: one is fake, the other is not."""
    paths = pictures / "a.png", pictures / "deep"
    _, plain = detect_json(capsys, *paths, "--weights", weights)
    assert {line["threshold"] for line in plain} == {0.5}
    low, high = sorted(line["score"] for line in plain)
    assert low < high
    middle = (low + high) / 2
    model = load_checkpoint(weights)
    model.threshold = middle
    own = tmp_path / "own.safetensors"
    save_checkpoint(own, model)
    for file, options in ((own, []), (weights, ["--threshold", repr(middle)])):
        _, lines = detect_json(capsys, *paths, "--weights", file, "--no-unsure", *options)
        assert {line["threshold"] for line in lines} == {middle}
        assert {line["verdict"] for line in lines} == {"real", "fake"}
        for line in lines:
            assert line["verdict"] == ("fake" if line["score"] > middle else "real")
            assert line["model"] == hashlib.sha256(file.read_bytes()).hexdigest()
    status_of("rank", *paths, "--weights", own, "--json", "--no-unsure")
    ranked = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["verdict"] for line in ranked] == ["fake", "real"]
    # The option outdoes the checkpoint: below the lowest score all are fake.
    _, lines = detect_json(capsys, *paths, "--weights", own, "--threshold", repr(low / 2), "--no-unsure")
    assert [line["verdict"] for line in lines] == ["fake", "fake"]


def test_train_eval_detect(tmp_path, monkeypatch, capsys):
    """The three commands after one another, with the run's folder chosen by default."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "d")
    options = ["--crop", "16", "--batch-size", "8", "--epochs", "1"]
    assert status_of("train", "d", *options) == 0
    assert capsys.readouterr().out == "runs/d/best.safetensors\n"
    assert status_of("train", "d", *options) == 1
    assert "holds a run already" in capsys.readouterr().err
    assert status_of("train", "d", "--resume") == 0
    assert status_of("train", "d", "--resume", "--seed", "4") == 1
    assert "seed 100, not 4" in capsys.readouterr().err
    assert status_of("eval", "d", "--split", "val", "--weights", "runs/d") == 0
    assert status_of("detect", "d/val", "--weights", "runs/d") == 0


def test_detect_facts_stand_beside_the_score(pictures, weights, capsys):
    """Every line but for the facts is as without them, of files that cannot be decoded too."""
    arguments = pictures / "a.png", pictures / "d.png", pictures / "b.jpg", pictures / "none", "--weights", weights
    status, plain = detect_json(capsys, *arguments)
    assert detect_json(capsys, *arguments, "--facts")[0] == status == 1
    _, lines = detect_json(capsys, *arguments, "--facts")
    facts = [line.pop("facts", None) for line in lines]
    assert lines == plain
    assert [found and found["format"] for found in facts] == ["PNG", None, "JPEG", None]
    assert facts[1]["problems"]
    assert facts[2]["jpeg"]["quality"] == 75
    status_of("detect", *arguments)
    table = capsys.readouterr().out.splitlines()
    status_of("detect", *arguments, "--facts")
    with_facts = capsys.readouterr().out.splitlines()
    assert [line for line in with_facts if not line.startswith(" " * 8) or "  unsure: " in line] == table
    assert f"        compression: quality 75, chroma 4:2:0, baseline, tables {facts[2]['jpeg']['tables']}" in with_facts
