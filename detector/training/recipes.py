"""Recipes: every number that a training depends on beside its data and seed.

Free of torch, so that the command line can name and explain them without waiting for it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from detector.data import Preprocessing

Schedule = Literal["steps", "cosine"]

#: Smaller crops leave the last layer one value a channel, of which batch norm has no variance.
MIN_CROP = 16


@dataclass(frozen=True)
class Recipe:
    """Adam on binary cross-entropy.

    Attributes:
        policy, crop, resize, flip: see :class:`detector.data.Preprocessing`.
        batch_size: images in a step; the last batch of an epoch may be smaller.
        epochs: passes over the training images.
        learning_rate: at the start.
        betas: Adam's decay rates of the first and second moment.
        schedule: "steps" multiplies the learning rate by `decay` after every `decay_epochs` epochs; "cosine" takes it
            to zero over the whole training, step by step.
    """

    name: str
    policy: Literal["native", "resize", "centre"]
    crop: int
    resize: int
    flip: bool
    batch_size: int
    epochs: int
    learning_rate: float
    betas: tuple[float, float]
    schedule: Schedule
    decay: float = 1.0
    decay_epochs: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        for name in ("batch_size", "epochs", "decay_epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.crop < MIN_CROP:
            raise ValueError(f"crop must be at least {MIN_CROP} pixels to train on, got {self.crop}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.schedule not in ("steps", "cosine"):
            raise ValueError(f"schedule must be 'steps' or 'cosine', got {self.schedule!r}")

    def preprocessing(self) -> Preprocessing:
        """What the trained model carries. Raises TypeError or ValueError where crop, resize and policy disagree."""
        from detector.data import Preprocessing

        return Preprocessing(policy=self.policy, crop=self.crop, resize=self.resize, flip=self.flip)

    def learning_rate_at(self, epoch: int, batch: int, batches: int) -> float:
        """The learning rate of one step: the given batch, from 0, of an epoch, from 0, with so many batches."""
        if self.schedule == "steps":
            return self.learning_rate * self.decay ** (epoch // self.decay_epochs)
        done = (epoch + batch / batches) / self.epochs
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def changed(self, **values: Any) -> Recipe:
        """This recipe with other values; those that are None stay."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `Recipe.from_dict` makes an equal one."""
        return asdict(self) | {"betas": list(self.betas)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of to_dict. Raises TypeError or ValueError for anything else."""
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown recipe keys {', '.join(sorted(unknown))}")
        return cls(**values)


#: Crops of images that were never resized, which keeps the trace that the detector reads. Small crops, because the
#: trace is local and many small crops teach more in the same time than few large ones.
DEFAULT = Recipe(
    name="default",
    policy="native",
    crop=64,
    resize=256,
    flip=True,
    batch_size=32,
    epochs=20,
    learning_rate=1e-3,
    betas=(0.9, 0.999),
    schedule="cosine",
)

#: Tan et al., CVPR 2024, Section 4.1.
NPR = Recipe(
    name="npr",
    policy="resize",
    crop=224,
    resize=256,
    flip=True,
    batch_size=32,
    epochs=50,
    learning_rate=2e-4,
    betas=(0.9, 0.999),
    schedule="steps",
    decay=0.9,
    decay_epochs=10,
)

RECIPES = {recipe.name: recipe for recipe in (DEFAULT, NPR)}
