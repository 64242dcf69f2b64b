import json
import pickle
import re
import struct
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from detector.data import DecoderWarning, Preprocessing, find_decoder
from detector.models import (
    CheckpointError,
    NPRDetector,
    load_checkpoint,
    read_metadata,
    save_calibrated,
    save_checkpoint,
)
from tests.detector.models.original import randomise


@pytest.fixture
def model():
    return randomise(NPRDetector(Preprocessing(crop=64, std=(0.2, 0.3, 0.4)), patch=4, anchor=3))


@pytest.fixture
def original_state():
    return randomise(NPRDetector()).state_dict()


def assert_same_weights(model, state):
    got = model.state_dict()
    assert got.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(got[name], value), name


def test_round_trip(tmp_path, model):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model.to(memory_format=torch.channels_last), recipe={"name": "x"}, epoch=3)
    loaded = load_checkpoint(path)
    assert_same_weights(loaded, model.state_dict())
    assert loaded.preprocessing == model.preprocessing
    assert loaded.architecture == {"residual": "npr", "patch": 4, "anchor": 3, "mode": "pixel"}
    assert not loaded.training
    metadata = read_metadata(path)
    assert metadata["recipe"] == {"name": "x"}
    assert metadata["epoch"] == 3
    assert metadata["architecture"]["name"] == "NPRDetector"
    assert metadata["decoder"] == find_decoder().to_dict()
    assert [file.name for file in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    ("recorded", "said"),
    [
        (None, None),
        ("text", None),
        ({"jpeg": 3, "self_test": []}, r"a\.safetensors: made where another decoder .* \(3, here libjpeg"),
        ({"webp": "libwebp\n0.1"}, r"\(libwebp\\n0\.1, here libwebp [0-9.]+\); scores may differ"),
    ],
)
def test_another_decoder_is_said_once_a_load(recorded, said, tmp_path, model):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model, decoder=recorded)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        load_checkpoint(path)
    texts = [str(warning.message) for warning in caught if warning.category is DecoderWarning]
    assert len(texts) == (said is not None)
    assert all(re.search(said, text) and text.isprintable() for text in texts)


@pytest.mark.parametrize("residual", ["haar", "npr+haar"])
def test_residuals_round_trip(tmp_path, residual):
    model = randomise(NPRDetector(residual=residual))
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.architecture["residual"] == residual
    assert_same_weights(loaded, model.state_dict())


def rewrite(path, change):
    """Changes what a checkpoint says of its architecture, and keeps its weights."""
    with safe_open(path, framework="pt") as file:
        strings = file.metadata()
    architecture = json.loads(strings["architecture"])
    change(architecture)
    save_file(load_file(path), path, strings | {"architecture": json.dumps(architecture)})


def test_the_threshold_travels_with_the_weights(tmp_path, model):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model)
    assert load_checkpoint(path).threshold == 0.5
    model.threshold = 0.3125
    save_checkpoint(path, model)
    assert load_checkpoint(path).threshold == 0.3125
    with safe_open(path, framework="pt") as file:
        strings = file.metadata()
    tensors = load_file(path)
    save_file(tensors, path, {name: value for name, value in strings.items() if name != "threshold"})
    assert load_checkpoint(path).threshold == 0.5, "checkpoints of before have none"
    for bad in ("0", "1", "1.5", "NaN", "true", '"half"', "null"):
        save_file(tensors, path, strings | {"threshold": bad})
        with pytest.raises(CheckpointError, match=r"a\.safetensors: .*threshold must be a number between 0 and 1"):
            load_checkpoint(path)


@pytest.mark.parametrize("bad", [0, 1, -0.5, float("nan"), True, "half", None])
def test_a_threshold_that_is_none_is_not_written(tmp_path, model, bad):
    model.threshold = bad
    with pytest.raises(ValueError, match="threshold must be a number between 0 and 1"):
        save_checkpoint(tmp_path / "a.safetensors", model)
    assert not list(tmp_path.iterdir())


def test_a_calibration_travels_with_the_weights(tmp_path, model):
    path, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_checkpoint(path, model, dtype=torch.float16, recipe={"name": "x"})
    assert load_checkpoint(path).calibration is None
    assert "calibration" not in read_metadata(path)
    record = {"date": "today", "llr": None, "nested": [1.5, {"a": "b"}]}
    save_calibrated(path, out, 0.9999999, record)
    assert read_metadata(out) == read_metadata(path) | {"threshold": 0.9999999, "calibration": record}
    before, after = load_file(path), load_file(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {name: value.dtype for name, value in before.items()} == {name: v.dtype for name, v in after.items()}
    loaded = load_checkpoint(out)
    assert (loaded.threshold, loaded.calibration) == (0.9999999, record)
    for dtype in (None, torch.float16):
        save_checkpoint(path, loaded, dtype=dtype)
        assert load_checkpoint(path).calibration == record
    save_calibrated(out, out, 0.25, {})
    assert (load_checkpoint(out).threshold, load_checkpoint(out).calibration) == (0.25, {})
    with pytest.raises(ValueError, match="threshold must be a number between 0 and 1, got 1"):
        save_calibrated(out, path, 1.0, record)
    assert load_checkpoint(path).threshold == 0.9999999


@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_calibrating_an_original_file(tmp_path, original_state, form):
    path = tmp_path / f"NPR.{form}"
    (torch.save if form == "pth" else save_file)(original_state, path)
    save_calibrated(path, tmp_path / "new.safetensors", 0.75, {"date": "today"})
    loaded = load_checkpoint(tmp_path / "new.safetensors")
    assert_same_weights(loaded, original_state)
    assert (loaded.threshold, loaded.calibration) == (0.75, {"date": "today"})
    assert loaded.preprocessing == NPRDetector.original_preprocessing


def test_a_checkpoint_from_before_residuals_is_of_npr(tmp_path, model):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model)
    rewrite(path, lambda architecture: architecture.pop("residual"))
    loaded = load_checkpoint(path)
    assert loaded.architecture["residual"] == "npr"
    assert_same_weights(loaded, model.state_dict())


@pytest.mark.parametrize(
    ("claimed", "line"),
    [
        ("npr+haar", r"conv1\.weight \[64, 3, 3, 3\] instead of \[64, 6, 3, 3\]"),
        ("wavelet", r"its metadata do not describe a model \(.*residual.*'wavelet'"),
    ],
)
def test_metadata_that_contradict_the_weights(tmp_path, claimed, line):
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, randomise(NPRDetector()))
    rewrite(path, lambda architecture: architecture.update(residual=claimed))
    with pytest.raises(CheckpointError, match=r"a\.safetensors: .*" + line) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"model": s, "total_steps": 7}])
@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_original_files(tmp_path, original_state, wrap, prefix, zipped):
    state = {prefix + name: value for name, value in original_state.items()}
    torch.save(wrap(state), tmp_path / "NPR.pth", _use_new_zipfile_serialization=zipped)
    loaded = load_checkpoint(tmp_path / "NPR.pth")
    assert_same_weights(loaded, original_state)
    assert loaded.preprocessing == Preprocessing(policy="resize", resize=256, crop=224)
    assert read_metadata(tmp_path / "NPR.pth") == {}


def test_bare_safetensors(tmp_path, original_state):
    save_file(original_state, tmp_path / "w.safetensors")
    assert_same_weights(load_checkpoint(tmp_path / "w.safetensors"), original_state)


class Exploit:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return (open, (str(self.witness), "w"))


@pytest.mark.parametrize("form", ["torch", "torch-legacy", "pickle", "pickle-0"])
def test_code_is_never_executed(tmp_path, original_state, form):
    path, witness = tmp_path / "evil.pth", tmp_path / "executed"
    content = {"model": original_state, "extra": Exploit(witness)}
    if form.startswith("torch"):
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    else:
        path.write_bytes(pickle.dumps(content["extra"], protocol=0 if form == "pickle-0" else 4))
    with pytest.raises(CheckpointError, match=r"evil\.pth: (refused, because .*could execute code|neither)") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)
    assert not witness.exists()


def damage(path, state, kind):
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("a photograph of a cat")
    elif kind == "truncated zip":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:100_000])
    elif kind == "truncated safetensors":
        save_file(state, path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif kind == "huge header":
        path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    elif kind == "no state dict":
        torch.save([1, 2, 3], path)
    elif kind == "empty dict":
        torch.save({}, path)


@pytest.mark.parametrize(
    "kind",
    ["empty", "text", "truncated zip", "truncated safetensors", "huge header", "no state dict", "empty dict"],
)
def test_damaged_files_are_named(tmp_path, original_state, kind):
    path = tmp_path / "weights.bin"
    damage(path, original_state, kind)
    with pytest.raises(CheckpointError, match=r"weights\.bin: ") as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


def test_mismatches_are_named(tmp_path, original_state):
    state = dict(original_state)
    state["layer3.0.conv1.weight"] = state.pop("fc1.bias")
    state["conv1.weight"] = torch.zeros(64, 3, 7, 7)
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(tmp_path / "w.pth")
    message = str(error.value)
    assert "missing: fc1.bias" in message
    assert "unexpected: layer3.0.conv1.weight" in message
    assert "conv1.weight [64, 3, 7, 7] instead of [64, 3, 3, 3]" in message


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("format_version", 99, "format version 99"),
        ("architecture", {"name": "Oracle"}, "unknown model 'Oracle'"),
        ("architecture", {"name": "NPRDetector", "depth": 3}, "depth"),
        ("preprocessing", {"policy": "stretch"}, "stretch"),
    ],
)
def test_metadata_that_do_not_describe_a_model(tmp_path, model, key, value, match):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, model)
    metadata = read_metadata(path) | {key: value}
    save_file(load_file(path), path, {name: json.dumps(value) for name, value in metadata.items()})
    with pytest.raises(CheckpointError, match=match):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "nowhere.pth")
    with pytest.raises(IsADirectoryError):
        load_checkpoint(tmp_path)


def test_failed_write_leaves_the_old_file(tmp_path, model, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_checkpoint(path, model)
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(path, model)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
