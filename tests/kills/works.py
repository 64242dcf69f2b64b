"""The commands that are killed, on data so small that they take seconds: training, evaluation, synth and study."""

from __future__ import annotations

import json
from pathlib import Path

import torch

# All that the commands need, so that the forked ones start with it; those that they import by themselves are among it.
import detector.commands.eval
import detector.commands.robustness
import detector.commands.study
import detector.commands.synth
import detector.commands.train  # noqa: F401
from detector.models import NPRDetector, save_checkpoint
from detector.report import check_figures
from detector.studies import study
from detector.studies.study import Size
from detector.synth import MANIFEST
from detector.synth.learned import training as learned_training
from detector.training.recipes import DEFAULT
from detector.training.trainer import CONFIG
from tests.detector.training.folders import make_data, make_split
from tests.kills.harness import Broken, Work

TINY_STUDY = Size(
    scenes=6, side=64, train_count=8, count=2, npr_epochs=1, cnn_epochs=1, bootstrap=5, robustness_count=1,
    families=("nearest", "transposed-k3"),
)  # fmt: skip


def make_works(inputs: Path) -> dict[str, Work]:
    """By name; what they read is made in the folder. The quick study and learned generators are tiny from then on."""
    torch.set_num_threads(1)
    check_figures()
    study.QUICK = TINY_STUDY
    learned_training.SAVE_EVERY, learned_training.BATCH, learned_training.CROP = 2, 2, 32
    make_data(inputs / "data", train=8, val=3)
    for number, generator in enumerate(("lynx", "ocelot")):
        make_split(inputs / "test" / generator, 6, number)
    torch.manual_seed(0)
    save_checkpoint(inputs / "weights.safetensors", NPRDetector(DEFAULT.preprocessing()))
    works = (
        Work("train", lambda out: _train(inputs, out), frozenset({"images_per_second"})),
        Work("eval", lambda out: _eval(inputs, out)),
        Work("synth", _synth, whole=_whole_data),
        Work("synth-learned", _synth_learned, whole=_whole_data),
        Work("study", lambda out: ["study", "--quick", "--out", f"{out}/study"], frozenset({"seconds", "resumed"})),
    )
    return {work.name: work for work in works}


def _train(inputs: Path, out: Path) -> list[str]:
    size = ["--crop", "16", "--batch-size", "6", "--epochs", "2", "--log-every", "3", "--checkpoint-every", "2"]
    resume = ["--resume"] if (out / "run" / CONFIG).exists() else []
    return ["train", f"{inputs}/data", "--out", f"{out}/run", *size, "--device", "cpu", *resume]


def _eval(inputs: Path, out: Path) -> list[str]:
    results = ["--json", f"{out}/result.json", "--csv", f"{out}/result.csv", "--html", f"{out}/result.html"]
    weights = ["--weights", f"{inputs}/weights.safetensors"]
    return ["eval", f"{inputs}/test", *weights, "--bootstrap", "5", "--device", "cpu", *results]


def _synth(out: Path) -> list[str]:
    counts = ["--scenes", "6", "--size", "32", "--train-count", "4", "--count", "2", "--workers", "1"]
    replacing = ["--force"] if (out / "data").exists() else []
    return ["synth", "--out", f"{out}/data", *counts, "--families", "nearest,fir", *replacing]


def _synth_learned(out: Path) -> list[str]:
    family = ["--learned", "--families", "autoencoder-nearest-x4", "--steps", "7", "--cache", f"{out}/cache"]
    return [*_synth(out), *family]


def _whole_data(out: Path) -> None:
    """A data set is there with all its images, or not at all."""
    data = out / "data"
    if data.exists():
        images = json.loads((data / MANIFEST).read_text())["images"]
        if images != (there := len(list(data.rglob("*.png")))):
            raise Broken(f"{data} has {there} of {images} images")
