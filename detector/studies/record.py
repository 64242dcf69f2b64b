"""What a study has done: its finished stages, and what its detectors were trained on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from detector.files import write_text
from detector.models import read_metadata
from detector.training.trainer import BEST, CONFIG, LAST, read_config

KIND = "study"
FILE = "study.json"


@dataclass(frozen=True)
class Finished:
    """A stage that is done.

    Attributes:
        name: of the stage.
        command: that did it.
        seconds: that the command took, the last time.
        resumed: it went on with what an earlier try had left.
    """

    name: str
    command: str
    seconds: float
    resumed: bool = False


@dataclass(frozen=True)
class Training:
    """What a detector saw, so that nobody compares two without knowing it.

    Attributes:
        recipe: its name.
        start: the weights that it started from.
        images: different images in the training set, reals and fakes.
        seen: images that it was trained on, counted as often as they came.
        steps: of the optimizer.
        validation: of the checkpoint that was kept, see :func:`detector.training.trainer.validate`.
    """

    recipe: str
    start: str
    images: int
    seen: int
    steps: int
    validation: dict[str, Any]

    @classmethod
    def of(cls, run: Path) -> Training:
        """Of the finished run in a folder."""
        config, last = read_config(run), read_metadata(run / LAST)
        images = int(json.loads((run / CONFIG).read_text(encoding="utf-8"))["images"].split()[0])
        return cls(
            recipe=config.recipe.name,
            start="random weights" if config.imagenet is None else f"ImageNet weights, {config.imagenet}",
            images=images,
            seen=last["epoch"] * images,
            steps=last["step"],
            validation=read_metadata(run / BEST)["validation"],
        )


@dataclass(frozen=True)
class Record:
    """Finished stages in their order, and trainings by detector."""

    finished: list[Finished] = field(default_factory=list)
    trainings: dict[str, Training] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, of kind "study"; the inverse of from_dict."""
        return {"kind": KIND, **asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Record:
        """The inverse of to_dict. Raises ValueError for anything else."""
        try:
            return cls(
                [Finished(**stage) for stage in values["finished"]],
                {name: Training(**training) for name, training in values["trainings"].items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"no record of a study ({type(error).__name__}: {error})") from error


def read_record(out: Path) -> Record:
    """The record of the study in a folder; an empty one where there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = out / FILE
    if not path.exists():
        return Record()
    try:
        return Record.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def write_record(out: Path, record: Record) -> None:
    """Writes it, whole or not at all."""
    write_text(out / FILE, json.dumps(record.to_dict(), indent=2) + "\n")
