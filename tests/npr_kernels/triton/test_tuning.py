"""Choice of launch configurations: the fastest is found once, remembered on disk, and shared with other processes."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("triton")

from npr_kernels.backends import triton
from npr_kernels.backends.triton import compat, tuning

CONFIGS = tuple(tuning.Config(block, 1, 4) for block in (16, 32, 64))
DEVICE = torch.device("cuda", 0)


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[int]:
    """Pretends that a GPU is there and block 32 is fastest; the list of blocks that were measured."""
    blocks = []

    def milliseconds(config, launch):
        blocks.append(config.block)
        return {16: 2.0, 32: 1.0, 64: float("inf")}[config.block]

    monkeypatch.setattr(tuning, "_may_measure", lambda: True)
    monkeypatch.setattr(tuning, "_milliseconds", milliseconds)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "some GPU")
    monkeypatch.setattr(compat, "cache_directory", lambda: str(tmp_path / "cache"))
    tuning._remembered.cache_clear()
    yield blocks
    tuning._remembered.cache_clear()


def run(op: str = "op", kind: tuple = (torch.float32, 3), positions: int = 1000) -> int:
    """The block that an op is launched with."""
    launched = []
    tuning.run(op, kind, positions, DEVICE, CONFIGS, launched.append)
    (config,) = launched
    return config.block


def test_measures_once_for_each_shape_class(measured):
    assert [run() for _ in range(3)] == [32] * 3
    assert measured == [16, 32, 64]
    run(positions=1024)  # the same power of two
    assert measured == [16, 32, 64]
    run(positions=1025)
    run(kind=(torch.float16, 3))
    run(op="another")
    assert measured == [16, 32, 64] * 4


def test_remembers_on_disk(measured):
    run()
    tuning._remembered.cache_clear()  # as another process
    assert run() == 32
    assert measured == [16, 32, 64]


def test_keeps_what_other_processes_wrote(measured):
    run("first")
    with open(tuning._path()) as file:
        entries = json.load(file)
    entries["from elsewhere"] = [1, 2, 3]
    with open(tuning._path(), "w") as file:
        json.dump(entries, file)
    run("second")
    with open(tuning._path()) as file:
        assert json.load(file).keys() > {"from elsewhere"}
    assert len(tuning._read()) == 3


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": "b"}', '{"a": [1]}', "null"])
def test_unreadable_file_is_measured_again(measured, tmp_path, content):
    (tmp_path / "cache").mkdir()
    with open(tuning._path(), "w") as file:
        file.write(content)
    assert run() == 32
    assert len(tuning._read()) == 1


def test_choice_that_is_no_longer_offered_is_measured_again(measured):
    run()
    (key,) = tuning._remembered()
    tuning._remembered()[key] = tuning.Config(128, 1, 4)
    assert run() == 32
    assert measured == [16, 32, 64] * 2


def test_unwritable_directory_is_no_error(measured, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert [run(), run()] == [32, 32]
    assert measured == [16, 32, 64]


def test_guesses_where_measuring_is_out_of_place(monkeypatch):
    monkeypatch.delenv("NPR_TRITON_TUNE", raising=False)
    monkeypatch.setattr(compat, "INTERPRETED", False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert tuning._may_measure()
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
        assert not tuning._may_measure()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert not tuning._may_measure()
    with monkeypatch.context() as patch:
        patch.setenv("NPR_TRITON_TUNE", "0")
        assert not tuning._may_measure()
    monkeypatch.setattr(compat, "INTERPRETED", True)
    assert not tuning._may_measure()


@pytest.mark.gpu
def test_tunes_on_the_device(monkeypatch, tmp_path):
    """The list of a real op is measured, the choice remembered, and the result that of the guess."""
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, device="cuda")
    weight = torch.randn(64, 3, 3, 3, device="cuda")
    if reason := triton.unavailable_reason():
        pytest.skip(reason)

    def conv2d():
        return triton.implementation().conv2d(images, weight, None, [0.01] * 3, torch.float32, True, False)

    guess = conv2d()
    monkeypatch.delenv("NPR_TRITON_TUNE")
    monkeypatch.setattr(compat, "cache_directory", lambda: str(tmp_path))
    tuning._remembered.cache_clear()
    torch.testing.assert_close(conv2d(), guess, rtol=1e-5, atol=1e-5)
    assert len(tuning._read()) == 1
    tuning._remembered.cache_clear()
