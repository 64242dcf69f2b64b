"""`npr calibrate`: what it prints, writes and refuses, and what `npr detect` and `npr info` make of it."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from detector.cli import _parser, main
from detector.data import Preprocessing
from detector.evaluation import Calibration, llr_of
from detector.evaluation.calibration_llr import METHODS
from detector.models import NPRDetector, load_checkpoint, read_metadata, save_checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")

RULE = ["--alpha", "0.2", "--confidence", "0.9"]  # 11 reals suffice


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """12 images in each of camera, web and set/1_fake; one in few."""
    root = tmp_path_factory.mktemp("calibration")
    rng = np.random.default_rng()
    for folder, count, strength in (("camera", 12, 1), ("web", 12, 0.7), ("set/1_fake", 12, 0.05), ("few", 1, 1)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            pixels = 255 * rng.random((20, 24, 3)) * strength
            Image.fromarray(pixels.astype(np.uint8)).save(root / folder / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory, data):
    """A checkpoint that scores all fakes higher than any real, with a recipe and a card. Of random networks one in ten
    does neither that nor the opposite."""
    from detector.detection import detect

    def scores(*folders):
        files = [str(path) for folder in folders for path in sorted((data / folder).iterdir())]
        return np.array([found.score for found in detect(model, files)])

    sign = 0
    while sign == 0:
        torch.manual_seed(int(np.random.default_rng().integers(2**31)))
        model = NPRDetector(Preprocessing(crop=16)).eval()
        reals, fakes = scores("camera", "web"), scores("set/1_fake")
        sign = int(fakes.min() > reals.max()) - int(fakes.max() < reals.min())
    with torch.no_grad():
        model.classifier.weight.mul_(sign * 3)
        model.classifier.bias.mul_(sign * 3)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_checkpoint(path, model, dtype=torch.float16, recipe={"name": "x"}, card=[{"title": "Old", "text": "Words."}])
    return path


def status_of(*arguments):
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as exit:
        return exit.code


@pytest.fixture(scope="module")
def calibrated(data, weights):
    """The calibrated checkpoint and the result."""
    out, result = weights.with_name("new.safetensors"), weights.with_name("c.json")
    groups = [f"camera={data}/camera", f"web={data}/web", "--fakes", f"made={data}/set"]
    assert status_of("calibrate", *groups, *RULE, "--weights", weights, "--out", out, "--json", result) == 0
    return out, Calibration.from_dict(json.loads(result.read_text()))


def test_the_weights_stay_and_the_rest_is_added(weights, calibrated):
    out, calibration = calibrated
    before, after = load_file(weights), load_file(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    metadata = read_metadata(out)
    assert metadata.pop("calibration") == json.loads(json.dumps(calibration.record()))
    assert metadata == read_metadata(weights) | {"threshold": calibration.threshold}
    assert list(calibration.reals) == ["camera", "web"]
    assert calibration.fakes["made"].share.images == 12
    assert calibration.provenance.weights == str(weights)


def test_it_travels(calibrated, tmp_path):
    """Read, written again and rounded, the detector keeps its calibration."""
    out, calibration = calibrated
    model = load_checkpoint(out)
    for name, dtype in (("a", None), ("b", torch.float16)):
        save_checkpoint(tmp_path / name, model, dtype=dtype)
        again = load_checkpoint(tmp_path / name)
        assert again.threshold == model.threshold == calibration.threshold
        assert again.calibration == model.calibration == read_metadata(out)["calibration"]
        assert llr_of(again) == calibration.llr


def test_detect_uses_it(data, weights, calibrated, capsys):
    out, calibration = calibrated
    paths = [*(data / "camera").glob("*"), *(data / "set/1_fake").glob("*"), data / "nothing.png"]
    assert status_of("detect", *paths, "--weights", out, "--json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for line in lines[:-1]:
        assert line["threshold"] == calibration.threshold
        assert line["llr"] == pytest.approx(float(calibration.llr(line["score"])))
        low, high = calibration.llr.bounds
        assert low <= line["llr"] <= high
    assert "llr" not in lines[-1]
    assert status_of("detect", *paths, "--weights", out, "--no-unsure") == 1
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].split() == ["score", "verdict", "log", "LR", "size", "path"]
    for row, line in zip(rows[1:-1], lines, strict=False):
        assert float(row.split()[2]) == pytest.approx(line["llr"], abs=0.006)
        assert row.index("24x20") == rows[0].index("size") - 1
    # Another treatment has other scores, and a detector without calibration no ratio.
    for options in (["--weights", out, "--policy", "centre"], ["--weights", weights]):
        assert status_of("detect", paths[0], *options, "--json") == 0
        assert "llr" not in json.loads(capsys.readouterr().out)
        assert status_of("detect", paths[0], *options) == 0
        assert "log LR" not in capsys.readouterr().out


def test_info_shows_it(calibrated, capsys):
    out, calibration = calibrated
    assert status_of("info", "--model", out) == 0
    text = capsys.readouterr().out
    assert text.index("## Calibration") < text.index("## Old")
    assert all(part.digest[:16] in text for part in (*calibration.reals.values(), *calibration.fakes.values()))
    assert "at most 20 % of the reals of each group" in text
    assert status_of("info", "--model", out, "--json") == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["threshold"] == calibration.threshold


def test_tables(data, weights, capsys):
    assert status_of("calibrate", data / "camera", *RULE, "--weights", weights) == 0
    out = capsys.readouterr().out
    assert "own threshold" in out
    assert "Cllr" not in out
    options = ["--fakes", data / "set", "--llr", "pav", "--weights", weights]
    assert status_of("calibrate", data / "camera", *RULE, *options) == 0
    out = capsys.readouterr().out
    assert re.search(r"set +12 ", re.sub("[│┃]", " ", out))
    assert all(word in out for word in ("equal error rate", "0.1 % FPR", "Cllr min", "cross-validated", "pav"))
    assert status_of("calibrate", data / "camera", *RULE, *options, "--json", "-") == 0
    assert Calibration.from_dict(json.loads(capsys.readouterr().out)).llr.method == "pav"


def test_original_weights(data, tmp_path):
    """A .pth file of another implementation becomes a checkpoint of this one."""
    torch.manual_seed(0)
    torch.save(NPRDetector().state_dict(), tmp_path / "NPR.pth")
    out = tmp_path / "new.safetensors"
    assert status_of("calibrate", data / "camera", *RULE, "--weights", tmp_path / "NPR.pth", "--out", out) == 0
    model = load_checkpoint(out)
    assert model.calibration["threshold"] == model.threshold != 0.5
    assert model.preprocessing == NPRDetector.original_preprocessing


def test_skipped_files_are_named(data, weights, capsys, tmp_path):
    for path in (data / "camera").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad.png").write_bytes(b"broken")
    (tmp_path / "copy.png").write_bytes((data / "camera" / "0.png").read_bytes())
    assert status_of("calibrate", f"mine={tmp_path}", *RULE, "--weights", weights) == 0
    error = capsys.readouterr().err
    assert "bad.png: is not an image" in error
    assert "mine: 1 file with the bytes of another count once" in error


def test_the_command_offers_what_the_library_has():
    choices = _parser("calibrate").parse_args(["calibrate", "x", "--fakes", "y", "--llr", "pav"])
    assert (choices.alpha, choices.confidence, choices.reals, choices.fakes) == (0.01, 0.95, ["x"], ["y"])
    for method in METHODS:
        assert _parser("calibrate").parse_args(["calibrate", "x", "--llr", method]).llr == method


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{data}/nowhere"], 1, "nowhere: {data}/nowhere does not exist"),
        (["{data}/few"], 1, "few: 1 real cannot certify a rate of 1 % with 95 % confidence; that takes at least 299"),
        (["{data}/set/1_fake"], 1, "set: no real image in {data}/set/1_fake"),
        (["{data}/set"], 1, "set: no real image in {data}/set"),
        (["{tmp}"], 1, "no real image in {tmp}"),
        (["{data}/camera", "--fakes", "{tmp}", *RULE], 1, "no generated image in {tmp}"),
        (["{data}/camera", "--fakes", "{data}/camera", *RULE], 1, "0.png is among the reals (camera) and among"),
        (["{data}/camera", "--fakes", "x=", *RULE], 1, "fakes must be NAME=FOLDER"),
        (["{data}/camera", "--confidence", "0.4"], 1, "confidence must be at least 0.5 and below 1, got 0.4"),
        (["{data}/camera", "--alpha", "1"], 2, "must be between 0 and 1, got 1"),
        (["{data}/camera", "--llr", "pav"], 2, "argument --llr goes with --fakes"),
        (["{data}/camera", "--llr", "tarot"], 2, "invalid choice"),
        ([], 2, "required"),
        (["{data}/camera", "--out", "{tmp}"], 1, "it is a folder"),
        (["{data}/camera", "--out", "{tmp}/no/x.safetensors"], 1, "there is no folder"),
        (["{data}/camera", "--weights", "{tmp}/none.pth"], 1, "none.pth: No such file"),
    ],
)
def test_bad_input(arguments, status, message, data, weights, capsys, tmp_path):
    options = [argument.format(data=data, tmp=tmp_path) for argument in arguments]
    if "--weights" not in options:
        options += ["--weights", weights]
    assert status_of("calibrate", *options) == status
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message.format(data=data, tmp=tmp_path) in captured.err
    assert status == 2 or captured.err.count("\n") == 1


def test_a_damaged_calibration_is_one_line(calibrated, data, capsys, tmp_path):
    out, _ = calibrated
    model = load_checkpoint(out)
    model.calibration["llr"].pop("bounds")
    save_checkpoint(tmp_path / "w.safetensors", model)
    image = data / "camera" / "0.png"
    assert status_of("detect", image, "--weights", tmp_path / "w.safetensors") == 1
    error = capsys.readouterr().err
    assert "a damaged likelihood ratio" in error
    assert error.count("\n") == 1
    save_checkpoint(tmp_path / "w.safetensors", model, calibration=[1])
    assert status_of("detect", image, "--weights", tmp_path / "w.safetensors") == 1
    assert "w.safetensors: its metadata do not describe a model (calibration must be" in capsys.readouterr().err


def test_for_int8(data, weights, tmp_path, capsys):
    """Ranges come from the reals and are kept; `npr detect` says in which precision it scored, and goes on in none
    but that."""
    out = tmp_path / "int8.safetensors"
    groups = [f"camera={data}/camera", f"web={data}/web"]
    assert status_of("calibrate", *groups, *RULE, "--weights", weights, "--precision", "int8", "--out", out) == 0
    metadata = read_metadata(out)
    assert len(metadata["ranges"]) == 22
    model = load_checkpoint(out).for_inference("int8")
    capsys.readouterr()
    picture = data / "camera" / "3.png"
    with Image.open(picture) as image:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    scores = {}
    for precision in ("float32", "int8"):
        assert status_of("detect", picture, "--weights", out, "--json", "--precision", precision) == 0
        line = json.loads(capsys.readouterr().out)
        assert line.get("precision", "float32") == precision
        scores[precision] = line["score"]
    assert scores["int8"] != scores["float32"]
    whole = model(model.preprocessing.test_view(pixels[0])[None]).sigmoid().item()
    assert scores["int8"] == pytest.approx(whole, abs=1e-5)
    journal = tmp_path / "lines.jsonl"
    resume = ("detect", picture, "--weights", out, "--resume", journal)
    assert status_of(*resume, "--precision", "int8") == 0
    assert status_of(*resume) == 1
    assert "precision" in capsys.readouterr().err
