"""Both papers' experiment from photographs alone: train on one simulated generator, test on 28.

A study is a list of `npr` commands, each of which goes on by its own means where it was killed, and a record of those
that are finished.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.console import say
from detector.studies.record import FILE, Finished, Record, Training, read_record, write_record
from detector.synth import MANIFEST
from detector.training.trainer import CONFIG

TITLE = "NPR and CNNDetection on simulated generators"
RECIPE_OF_CNN = "cnndetection-small"


@dataclass(frozen=True)
class Size:
    """How much is made, trained and measured.

    Attributes:
        scenes: procedural photographs, where no folder of photographs is given.
        side: of the images, in pixels.
        train_count: images of each label to train on.
        count: images of each label to validate on, and of each generator to test on.
        npr_epochs, cnn_epochs: of the trainings; None for the recipe's.
        bootstrap: resamples for intervals.
        robustness_count: images of each label and generator that are degraded.
        families: generators to test on; None for all 28.
    """

    scenes: int = 200
    side: int = 128
    train_count: int = 1500
    count: int = 50
    npr_epochs: int | None = None
    cnn_epochs: int | None = None
    bootstrap: int = 1000
    robustness_count: int = 10
    families: tuple[str, ...] | None = None


FULL = Size()

#: A few minutes, to see that everything works. Its figures mean nothing.
QUICK = Size(
    scenes=24, side=96, train_count=128, count=10, npr_epochs=2, cnn_epochs=1, bootstrap=100, robustness_count=2
)


@dataclass(frozen=True)
class Stage:
    """One command of a study.

    Attributes:
        name: what it does.
        command: words after `npr`.
        begun: a file that is there when the stage was begun before.
        again: words that the command then needs.
        training: the detector that it trains, "" for none.
    """

    name: str
    command: tuple[str, ...]
    begun: Path
    again: tuple[str, ...] = ()
    training: str = ""

    def __str__(self) -> str:
        return shlex.join(["npr", *self.command])


def stages(
    out: Path,
    size: Size = FULL,
    *,
    photos: str | None = None,
    imagenet: str | None = None,
    seed: int = 0,
    device: str | None = None,
) -> list[Stage]:
    """The commands of a study, in their order.

    Args:
        out: the study's folder.
        size: of the study.
        photos: folder of photographs; None makes procedural ones.
        imagenet: ResNet-50 weights that CNNDetection starts from; None for random ones.
        seed: of the data set.
        device: of trainings and measurements; None for the first GPU, or the CPU.
    """
    data, npr, cnn = out / "data", out / "npr", out / "cnndetection"
    evaluation, robustness, page = out / "evaluation.json", out / "robustness.json", out / "report.html"
    weights = ["--weights", f"NPR={npr}", f"CNNDetection={cnn}"]
    source = ["--photos", photos] if photos is not None else ["--scenes", size.scenes]
    families = ["--families", ",".join(size.families)] if size.families is not None else []
    counts = ["--size", size.side, "--train-count", size.train_count, "--count", size.count]
    start = ["--imagenet", imagenet] if imagenet is not None else []
    on = ["--device", device] if device is not None else []

    return [
        Stage(
            "simulate",
            _words("synth", "--suite", 28, *source, *families, *counts, "--seed", seed, "--out", data),
            begun=data / MANIFEST,
            again=("--force",),
        ),
        Stage(
            "train NPR",
            _words("train", data, "--out", npr, *_epochs(size.npr_epochs), *on),
            begun=npr / CONFIG,
            again=("--resume",),
            training="NPR",
        ),
        Stage(
            "train CNNDetection",
            _words("train", data, "--out", cnn, "--recipe", RECIPE_OF_CNN, *_epochs(size.cnn_epochs), *start, *on),
            begun=cnn / CONFIG,
            again=("--resume",),
            training="CNNDetection",
        ),
        Stage(
            "evaluate",
            _words(
                *("eval", data, *weights, "--bootstrap", size.bootstrap),
                *("--json", evaluation, "--csv", evaluation.with_suffix(".csv"), *on),
            ),
            begun=evaluation,
        ),
        Stage(
            "robustness",
            _words("robustness", data, *weights, "--limit", size.robustness_count, "--out", robustness, *on),
            begun=robustness,
        ),
        Stage(
            "report", _words("report", out / FILE, evaluation, robustness, "--title", TITLE, "--out", page), begun=page
        ),
    ]


def run_study(out: Path, study: Sequence[Stage], execute: Callable[[Sequence[str]], int]) -> int:
    """Runs the stages that are not finished, each after the ones before it.

    Args:
        out: the study's folder, which keeps the record.
        study: see :func:`stages`.
        execute: runs a command, given the words after `npr`, and returns its exit status.

    Returns:
        0, or the exit status of the stage that failed.

    Raises:
        OSError: the folder cannot be written.
        ValueError: it holds a study of other commands.
    """
    out.mkdir(parents=True, exist_ok=True)
    record = _kept(read_record(out), study)
    for number, stage in enumerate(study):
        head = f"stage {number + 1} of {len(study)}, {stage.name}"
        if number < len(record.finished):
            say(f"{head}: finished before, in {record.finished[number].seconds:.0f} s")
            continue
        later = ", ".join(other.name for other in study[number + 1 :])
        say(f"{head}{f' (then {later})' if later else ''}\n$ {stage}")
        start, resumed = time.monotonic(), stage.begun.exists()
        status = execute([*stage.command, *(stage.again if resumed else ())])
        if status:
            say(f"{head}: exit status {status}; the same command goes on from here")
            return status
        record.finished.append(Finished(stage.name, str(stage), time.monotonic() - start, resumed))
        if stage.training:
            record.trainings[stage.training] = Training.of(stage.begun.parent)
        write_record(out, record)
    return 0


def _kept(record: Record, study: Sequence[Stage]) -> Record:
    """The record without the stages whose files are gone, and without those after them, which rely on theirs.

    Raises:
        ValueError: a stage was finished by another command.
    """
    for number, (done, stage) in enumerate(zip(record.finished, study, strict=False)):
        if done.command != str(stage):
            raise ValueError(f"--out holds a study of other options: it ran `{done.command}`, not `{stage}`")
        if not stage.begun.exists():
            del record.finished[number:]
            break
    return record


def _words(*words: object) -> tuple[str, ...]:
    return tuple(str(word) for word in words)


def _epochs(epochs: int | None) -> list[object]:
    return [] if epochs is None else ["--epochs", epochs]
