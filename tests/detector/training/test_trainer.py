import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from detector.data import DataError, find_images
from detector.models import CNNDetector, load_checkpoint, read_metadata
from detector.training import trainer
from detector.training.log import read_log
from detector.training.recipes import AUGMENTATIONS, CNNDETECTION, DEFAULT
from detector.training.state import Position
from detector.training.trainer import EpochBatches, TrainConfig, hold_out, read_config, train
from tests.detector.training.folders import make_data, save_image

RECIPE = DEFAULT.changed(crop=16, batch_size=6, epochs=2)  # 32 images: 5 batches of 6 and one of 2


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


@pytest.mark.slow
def test_validations_every_so_many_epochs_and_at_the_end(config, tmp_path):
    config = replace(config, recipe=RECIPE.changed(epochs=5), validate_every=2)
    best = train(config)
    validated = [line["epoch"] for line in read_log(tmp_path / "run") if line["event"] == "val"]
    assert validated == [2, 4, 5]
    assert read_metadata(best)["epoch"] in validated
    assert read_metadata(tmp_path / "run" / "last.safetensors")["epoch"] == 5
    often = replace(config, out=str(tmp_path / "often"), validate_every=1)
    train(often)
    assert_same_tensors(tmp_path / "run" / "last.safetensors", tmp_path / "often" / "last.safetensors")
    with pytest.raises(ValueError, match="validate_every must be 1 for the schedule plateau, got 2"):
        replace(config, recipe=CNNDETECTION)


@pytest.mark.parametrize("residual", ["haar", "npr+haar"])
def test_other_residuals_train_and_are_recorded(config, tmp_path, residual):
    best = train(replace(config, recipe=RECIPE.changed(residual=residual)))
    assert load_checkpoint(best).architecture["residual"] == residual
    assert read_metadata(best)["recipe"]["residual"] == residual


def test_it_learns(tmp_path):
    data = make_data(tmp_path / "data", train=16, val=8, side=40)
    config = TrainConfig(str(data), str(tmp_path / "run"), DEFAULT.changed(crop=32, batch_size=16, epochs=5))
    best = train(config, verbose=False)
    assert read_metadata(best)["validation"]["average_precision"] > 0.9


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    run = tmp_path_factory.mktemp("straight") / "run"
    train(TrainConfig(str(data), str(run), RECIPE, log_every=3, checkpoint_every=2), verbose=False)
    return run


def test_workers_do_not_change_the_weights(straight, config, tmp_path):
    train(replace(config, workers=2), verbose=False)
    assert_same_run(straight, tmp_path / "run")


def test_seeds_matter(straight, config, tmp_path):
    train(replace(config, seed=1), verbose=False)
    a, b = (load_file(run / "last.safetensors") for run in (straight, tmp_path / "run"))
    assert not torch.equal(a["conv1.weight"], b["conv1.weight"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moment", [1, 4, 7, 11])
def test_resume_after_an_exception(straight, config, tmp_path, monkeypatch, moment):
    """Stops before a given step, which lies before the first state, in mid-epoch or between epochs."""
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
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.parametrize("target", ["save_checkpoint", "save_state", "validate"])
def test_resume_after_dying_between_epochs(straight, config, tmp_path, monkeypatch, target):
    """Dies after, or before, one of the writes at the end of the first epoch."""
    original = getattr(trainer, target)

    def dying(*arguments, **metadata):
        original(*arguments, **metadata)
        if target != "save_state" or arguments[3].epoch == 1:
            raise Killed

    monkeypatch.setattr(trainer, target, dying)
    with pytest.raises(Killed):
        train(config, verbose=False)
    monkeypatch.setattr(trainer, target, original)
    train(config, resume=True, verbose=False)
    assert_same_run(straight, tmp_path / "run")


@pytest.mark.slow
def test_sigkill_and_resume(straight, data, tmp_path):
    """A real process, killed at whatever moment, as often as it takes; the weights are those of a run never killed."""
    run = tmp_path / "run"
    options = ["--crop", "16", "--batch-size", "6", "--epochs", "2", "--log-every", "3", "--checkpoint-every", "2"]
    command = [sys.executable, "-m", "detector.cli", "train", str(data), "--out", str(run), *options]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    kills = 0
    for patience in (0, 5):  # log lines to wait for before the kill: at once, and in the second epoch
        resume = ["--resume"] if (run / "config.json").exists() else []
        process = subprocess.Popen([*command, *resume], env=os.environ | threads, stderr=subprocess.PIPE)
        while process.poll() is None:
            log = run / "log.jsonl"
            if log.exists() and log.read_text().count("\n") >= patience:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        kills += process.wait() == -signal.SIGKILL
        process.stderr.close()
    assert kills, "the process was never caught alive"
    done = subprocess.run([*command, "--resume"], env=os.environ | threads, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{run / 'best.safetensors'}\n"
    assert_same_run(straight, run)


def test_resume_of_a_finished_run_changes_nothing(straight, config, tmp_path):
    shutil.copytree(straight, tmp_path / "run")
    recorded = json.loads((tmp_path / "run/config.json").read_text())
    recorded["config"]["out"] = config.out
    (tmp_path / "run/config.json").write_text(json.dumps(recorded))
    assert train(config, resume=True, verbose=False) == tmp_path / "run/best.safetensors"
    assert_same_run(straight, tmp_path / "run")


def test_an_existing_run_is_not_overwritten(straight, config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(straight, run)
    with pytest.raises(FileExistsError, match="holds a run already"):
        train(config, verbose=False)
    assert_same_run(straight, run)
    train(replace(config, recipe=RECIPE.changed(epochs=1)), force=True, verbose=False)
    assert len([line for line in read_log(run) if line["event"] == "val"]) == 1


def test_resume_checks_what_it_goes_on_with(straight, config, data, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(config, resume=True, verbose=False)
    shutil.copytree(straight, run)
    other = replace(config, seed=3, recipe=RECIPE.changed(batch_size=8))
    with pytest.raises(ValueError, match="seed 100, not 3; batch_size 6, not 8"):
        train(other, resume=True, verbose=False)
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/train/cat/0_real/000.png").unlink()
    with pytest.raises(ValueError, match=r"training images in .* are not the run's"):
        train(replace(config, data=str(tmp_path / "data")), resume=True, verbose=False)


def test_bad_images_are_named_and_skipped(data, tmp_path, capfd):
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data/train/cat/0_real/000.png").write_bytes(b"no image")
    (tmp_path / "data/val/cat/1_fake/000.png").write_bytes(b"")
    config = TrainConfig(str(tmp_path / "data"), str(tmp_path / "run"), RECIPE)
    train(config)
    said = capfd.readouterr().err
    assert said.count("train/cat/0_real/000.png: is not an image") == 1
    assert read_log(tmp_path / "run")[-1]["images"] == 11


def test_no_good_image_at_all(data, tmp_path):
    """Every batch is empty: no step is made, nothing fails."""
    shutil.copytree(data, tmp_path / "data")
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_bytes(b"")
    train(TrainConfig(str(tmp_path / "data"), str(tmp_path / "run"), RECIPE), verbose=False)
    assert read_log(tmp_path / "run")[-1]["average_precision"] is None


def test_held_out_images(tmp_path):
    make_data(tmp_path / "data", train=10, val=0)
    collection = find_images(tmp_path / "data", "train")
    kept, held = hold_out(collection, 0.2, seed=1)
    assert set(kept.samples) | set(held.samples) == set(collection.samples)
    assert (held.labels.count(0), held.labels.count(1), len(kept)) == (4, 4, 32)
    assert hold_out(collection, 0.2, seed=1) == (kept, held)
    assert hold_out(collection, 0.2, seed=2)[1] != held
    with pytest.raises(DataError, match="too few to hold out"):
        hold_out(collection, 0.01, seed=1)


def test_classes_and_one_class_sets(config, data, tmp_path):
    train(replace(config, classes=("dog",), balanced=True), verbose=False)
    with pytest.raises(DataError, match="no class fish"):
        train(replace(config, classes=("fish",)), force=True, verbose=False)
    save_image(tmp_path / "one/train/a/0_real/1.png", 1, False, 24)
    save_image(tmp_path / "one/val/a/0_real/1.png", 1, False, 24)
    with pytest.raises(DataError, match=r"needs reals and fakes, .* 1 reals and 0 fakes"):
        train(replace(config, data=str(tmp_path / "one"), out=str(tmp_path / "c")), verbose=False)
    assert not (tmp_path / "c").exists()


def test_bfloat16(config, tmp_path):
    train(replace(config, amp=True), verbose=False)
    assert load_file(tmp_path / "run/last.safetensors")["conv1.weight"].dtype == torch.float32


def test_plateaus():
    """Five validations that gain less than 0.1 % are one; the first one after it sets the new mark."""
    position = Position()

    def feed(*accuracies):
        return [position.stagnates(accuracy, 5, 0.001) for accuracy in accuracies]

    assert feed(0.9, 0.9005, 0.9009, 0.9, 0.5, 0.9015) == [False] * 6  # the last one gains 0.15 %
    assert feed(0.9, 0.9, 0.9, 0.9, 0.902) == [False] * 4 + [True]
    assert (position.drops, position.stale) == (1, 0)
    assert feed(0.8, 0.79, 0.79, 0.79, None, 0.9) == [False] * 6
    assert feed(0.6, 0.6, 0.6, 0.6, 0.6) == [False] * 4 + [True]
    assert position.drops == 2


# Learning rates of 1e-3, 1e-4 and no third one, of two epochs each; no validation improves enough.
PLATEAUS = RECIPE.changed(
    batch_size=16,
    epochs=50,
    learning_rate=1e-3,
    schedule="plateau",
    decay=0.1,
    decay_epochs=1,
    min_improvement=2.0,
    min_learning_rate=1e-4,
)


@pytest.mark.slow
def test_learning_rate_falls_on_plateaus_until_the_training_ends(config, tmp_path, monkeypatch):
    config = replace(config, recipe=PLATEAUS, log_every=2)
    train(config, verbose=False)
    rates = {line["epoch"]: line["learning_rate"] for line in read_log(tmp_path / "run") if line["event"] == "train"}
    assert rates == pytest.approx({1: 1e-3, 2: 1e-3, 3: 1e-4, 4: 1e-4})

    def killed(*arguments):
        raise Killed

    original, steps = trainer.step, iter(range(1, 100))
    monkeypatch.setattr(trainer, "step", lambda *a: killed() if next(steps) == 6 else original(*a))
    other = replace(config, out=str(tmp_path / "other"))
    with pytest.raises(Killed):
        train(other, verbose=False)
    train(other, resume=True, verbose=False)
    assert_same_run(tmp_path / "run", tmp_path / "other")
    train(other, resume=True, verbose=False)  # a training that has ended
    assert_same_run(tmp_path / "run", tmp_path / "other")


def test_augmented_ablation(straight, config, tmp_path):
    recipe = RECIPE.changed(epochs=1, mode="mean", jpeg_encoders=("pillow",), **AUGMENTATIONS["blur+jpeg-0.5"])
    best = train(replace(config, recipe=recipe), verbose=False)
    architecture = {"name": "NPRDetector", "residual": "npr", "patch": 2, "anchor": 0, "mode": "mean"}
    assert read_metadata(best)["architecture"] == architecture
    assert read_metadata(best)["recipe"]["jpeg_probability"] == 0.5
    train(replace(config, recipe=recipe, workers=2, out=str(tmp_path / "workers")), verbose=False)
    assert_same_run(tmp_path / "run", tmp_path / "workers")


@pytest.mark.slow
def test_deliveries_interrupted_or_with_workers(config, tmp_path, monkeypatch):
    recipe = RECIPE.changed(jpeg_encoders=("pillow",), **AUGMENTATIONS["delivery"])
    config = replace(config, recipe=recipe)
    best = train(config, verbose=False)
    assert read_metadata(best)["recipe"]["delivery_probability"] == pytest.approx(2 / 3)
    assert read_config(tmp_path / "run") == config

    def killed(*arguments):
        raise Killed

    original, steps = trainer.step, iter(range(1, 100))
    monkeypatch.setattr(trainer, "step", lambda *a: killed() if next(steps) == 9 else original(*a))
    other = replace(config, out=str(tmp_path / "killed"))
    with pytest.raises(Killed):
        train(other, verbose=False)
    train(other, resume=True, verbose=False)
    assert_same_run(tmp_path / "run", tmp_path / "killed")
    train(replace(config, workers=2, out=str(tmp_path / "workers")), verbose=False)
    assert_same_run(tmp_path / "run", tmp_path / "workers")

    train(replace(config, recipe=RECIPE, out=str(tmp_path / "plain")), verbose=False)
    a, b = (load_file(tmp_path / run / "last.safetensors") for run in ("run", "plain"))
    assert not torch.equal(a["conv1.weight"], b["conv1.weight"])


@pytest.mark.slow
def test_cnndetection_from_imagenet_weights(data, tmp_path):
    weights = tmp_path / "resnet50.pth"
    state = CNNDetector().state_dict()
    torch.save(state | {"fc.weight": torch.ones(1000, 2048), "fc.bias": torch.ones(1000)}, weights)
    recipe = CNNDETECTION.changed(crop=64, batch_size=16, epochs=1, learning_rate=1e-6, jpeg_encoders=("pillow",))
    config = TrainConfig(str(data), str(tmp_path / "run"), recipe, imagenet=str(weights))
    model = load_checkpoint(train(config, verbose=False))
    assert isinstance(model, CNNDetector)
    torch.testing.assert_close(model.layer4[2].conv2.weight.detach(), state["layer4.2.conv2.weight"], atol=1e-5, rtol=0)
    assert read_config(tmp_path / "run") == config
    with pytest.raises(ValueError, match="imagenet weights are a ResNet-50's; NPRDetector cannot"):
        replace(config, recipe=RECIPE)


def test_what_is_missing_is_said_before_a_run_is_made(config, tmp_path):
    recipe = CNNDETECTION.changed(crop=64, jpeg_encoders=("pillow",))
    with pytest.raises(FileNotFoundError):
        train(replace(config, recipe=recipe, imagenet=str(tmp_path / "none.pth")), verbose=False)
    with pytest.raises(ValueError, match="anchor"):
        train(replace(config, recipe=RECIPE.changed(anchor=4)), verbose=False)
    assert not (tmp_path / "run").exists()


def test_batches_continue_where_they_stopped():
    batches = EpochBatches([0, 1] * 10, 6, seed=3, balanced=False)
    batches.set_epoch(2)
    every = list(batches)
    assert [len(batch) for batch in every] == [6, 6, 6, 2]
    assert sorted(index for batch in every for index in batch) == list(range(20))
    for first in range(5):
        batches.set_epoch(2, first)
        assert list(batches) == every[first:]
        assert len(batches) == 4 - first
    batches.set_epoch(3)
    assert list(batches) != every


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"workers": -1}, "workers must not be negative"),
        ({"val_fraction": 1.0}, "val_fraction must be between 0 and 1"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1"),
    ],
)
def test_bad_config(config, values, match):
    with pytest.raises(ValueError, match=match):
        replace(config, **values)
