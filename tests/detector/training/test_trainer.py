import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from detector.data import DataError, find_images
from detector.models import load_checkpoint, read_metadata
from detector.training.log import read_log
from detector.training.recipes import DEFAULT, NPR
from detector.training.trainer import EpochBatches, TrainConfig, hold_out, read_config, train
from tests.detector.training.folders import make_data, save_image

RECIPE = DEFAULT.changed(crop=32, batch_size=6, epochs=2)  # 32 images: 5 batches of 6 and one of 2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def config(data, tmp_path):
    return TrainConfig(str(data), str(tmp_path / "run"), RECIPE, log_every=3, checkpoint_every=2)


def losses(folder):
    """The log without what depends on the clock."""
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in read_log(folder)]


def assert_same_tensors(a, b):
    a, b = load_file(a), load_file(b)
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different


def assert_same_run(a, b):
    for name in ("last.safetensors", "best.safetensors", "state.safetensors"):
        assert_same_tensors(a / name, b / name)
    assert losses(a) == losses(b)


def test_a_run(config, tmp_path, capfd):
    best = train(config)
    run = tmp_path / "run"
    assert best == run / "best.safetensors"
    log = read_log(run)
    assert [line["step"] for line in log if line["event"] == "train"] == [3, 6, 9, 12]
    assert [(line["step"], line["epoch"]) for line in log if line["event"] == "val"] == [(6, 1), (12, 2)]
    assert log[-1].keys() == {"event", "step", "epoch", "images", "loss", "accuracy", "average_precision"}
    assert log[-1]["images"] == 12
    model = load_checkpoint(run / "last.safetensors")
    assert model.preprocessing == RECIPE.preprocessing()
    assert read_metadata(run / "last.safetensors")["recipe"] == RECIPE.to_dict()
    assert read_config(run) == config
    assert any((run / "tensorboard").iterdir())
    said = capfd.readouterr().err
    assert "32 images (16 real, 16 fake)" in said
    assert "validation on 12 images: the val split" in said


def test_it_learns(data, tmp_path):
    config = TrainConfig(str(data), str(tmp_path / "run"), RECIPE.changed(epochs=6))
    best = train(config, verbose=False)
    assert read_metadata(best)["validation"]["average_precision"] > 0.9


def test_workers_do_not_change_the_weights(config, tmp_path):
    train(config, verbose=False)
    train(
        TrainConfig(config.data, str(tmp_path / "b"), RECIPE, workers=2, log_every=3, checkpoint_every=2), verbose=False
    )
    assert_same_run(tmp_path / "run", tmp_path / "b")


def test_seeds_matter(config, tmp_path):
    train(config, verbose=False)
    train(TrainConfig(config.data, str(tmp_path / "b"), RECIPE, seed=1), verbose=False)
    a, b = (load_file(tmp_path / name / "last.safetensors") for name in ("run", "b"))
    assert not torch.equal(a["conv1.weight"], b["conv1.weight"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [1, 2, 3, 5, 6, 7, 10, 12])
def test_resume_after_an_exception(config, tmp_path, monkeypatch, moment):
    """Stops before a given step, which may lie before the first state, in mid-epoch or between epochs."""
    import detector.training.trainer as trainer

    straight = TrainConfig(config.data, str(tmp_path / "straight"), RECIPE, log_every=3, checkpoint_every=2)
    train(straight, verbose=False)

    original, steps = trainer.step, iter(range(1, 100))

    def step(*arguments):
        if next(steps) == moment:
            raise Killed
        return original(*arguments)

    monkeypatch.setattr(trainer, "step", step)
    with pytest.raises(Killed):
        train(config, verbose=False)
    monkeypatch.setattr(trainer, "step", original)
    train(config, resume=True, verbose=False)
    assert_same_run(tmp_path / "straight", tmp_path / "run")
