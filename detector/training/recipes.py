"""Recipes: every number that a training depends on beside its data and seed.

Free of torch, so that the command line can name and explain them without waiting for it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from detector.data import Augmentation, Preprocessing
    from detector.data.degradations import Encoder
    from detector.models import Detector

Schedule = Literal["steps", "cosine", "plateau"]

#: By model. Smaller crops leave the last layer one value a channel, of which batch norm has no variance.
MIN_CROP = {"NPRDetector": 16, "CNNDetector": 64}

#: What befalls training images, values of a recipe: by the names of Wang et al., Table 2, or "delivery".
AUGMENTATIONS: dict[str, dict[str, Any]] = {
    name: {"blur_probability": blur, "jpeg_probability": jpeg, "delivery_probability": delivery}
    for name, (blur, jpeg, delivery) in {
        "none": (0.0, 0.0, 0.0),
        "blur": (0.5, 0.0, 0.0),
        "jpeg": (0.0, 0.5, 0.0),
        "blur+jpeg-0.5": (0.5, 0.5, 0.0),
        "blur+jpeg-0.1": (0.1, 0.1, 0.0),
        "delivery": (0.0, 0.0, 2 / 3),
    }.items()
}


@dataclass(frozen=True)
class Recipe:
    """Adam on binary cross-entropy.

    Attributes:
        policy, crop, resize, flip: see :class:`detector.data.Preprocessing`.
        batch_size: images in a step; the last batch of an epoch may be smaller.
        epochs: passes over the training images, at most.
        learning_rate: at the start.
        betas: Adam's decay rates of the first and second moment.
        schedule: "steps" multiplies the learning rate by `decay` after every `decay_epochs` epochs; "cosine" takes it
            to zero over the whole training, step by step; "plateau" multiplies it by `decay` when `decay_epochs`
            epochs in a row have not improved the validation accuracy by `min_improvement`, and ends the training where
            it would fall below `min_learning_rate`.
        model: "NPRDetector" or "CNNDetector".
        residual, patch, anchor, mode, luma, pooling: of NPRDetector.
        identity_start: residual blocks begin as the identity, see :func:`detector.models.resnet.start_as_identity`;
            weights that a training starts from replace this.
        blur_probability, blur_sigma, jpeg_probability, jpeg_quality, jpeg_encoders: see
            :class:`detector.data.BlurJpeg`.
        delivery_probability: of a random history instead, of the same qualities and encoders, see
            :class:`detector.data.RandomDelivery`.
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
    min_improvement: float = 0.0
    min_learning_rate: float = 0.0
    model: str = "NPRDetector"
    residual: str = "npr"
    patch: int = 2
    anchor: int = 0
    mode: str = "pixel"
    luma: bool = False
    pooling: str = "mean"
    identity_start: bool = False
    blur_probability: float = 0.0
    blur_sigma: tuple[float, float] = (0.0, 3.0)
    jpeg_probability: float = 0.0
    jpeg_quality: tuple[int, int] = (30, 100)
    jpeg_encoders: tuple[Encoder, ...] = ("opencv", "pillow")
    delivery_probability: float = 0.0

    def __post_init__(self) -> None:
        for name in _TUPLES:
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.model not in MIN_CROP:
            raise ValueError(f"model must be one of {', '.join(MIN_CROP)}, got {self.model!r}")
        residual = (self.residual, self.patch, self.anchor, self.mode, self.luma, self.pooling)
        if self.model != "NPRDetector" and residual != ("npr", 2, 0, "pixel", False, "mean"):
            raise ValueError(f"residual, patch, anchor, mode, luma and pooling are of NPRDetector, not of {self.model}")
        for name in ("batch_size", "epochs", "decay_epochs"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be an int, got {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.delivery_probability and (self.blur_probability or self.jpeg_probability):
            raise ValueError(
                "delivery_probability is for training without blur_probability and jpeg_probability, "
                f"got {self.delivery_probability:g} with {self.blur_probability:g} and {self.jpeg_probability:g}"
            )
        if self.crop < MIN_CROP[self.model]:
            raise ValueError(f"crop must be at least {MIN_CROP[self.model]} pixels to train on, got {self.crop}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.learning_rate < self.min_learning_rate:
            raise ValueError(
                f"learning_rate must be at least {self.min_learning_rate:g}, where the training ends, "
                f"got {self.learning_rate:g}"
            )
        if self.schedule not in get_args(Schedule):
            raise ValueError(f"schedule must be one of {', '.join(get_args(Schedule))}, got {self.schedule!r}")

    def preprocessing(self) -> Preprocessing:
        """What the trained model carries. Raises TypeError or ValueError where crop, resize and policy disagree."""
        from detector.data import Preprocessing

        return Preprocessing(policy=self.policy, crop=self.crop, resize=self.resize, flip=self.flip)

    def augmentation(self) -> Augmentation:
        """What befalls training images. Raises TypeError or ValueError for wrong values and missing encoders."""
        from detector.data import BlurJpeg, RandomDelivery

        if self.delivery_probability:
            return RandomDelivery(self.delivery_probability, self.jpeg_quality, self.jpeg_encoders)
        names = ("blur_probability", "blur_sigma", "jpeg_probability", "jpeg_quality", "jpeg_encoders")
        return BlurJpeg(**{name: getattr(self, name) for name in names})

    def detector(self) -> Detector:
        """A fresh model, its weights drawn from torch's global generator."""
        from detector.models import CNNDetector, NPRDetector
        from detector.models.resnet import start_as_identity

        model: Detector
        if self.model == "CNNDetector":
            model = CNNDetector(self.preprocessing())
        else:
            model = NPRDetector(
                self.preprocessing(),
                residual=self.residual,
                patch=self.patch,
                anchor=self.anchor,
                mode=self.mode,
                luma=self.luma,
                pooling=self.pooling,
            )
        if self.identity_start:
            start_as_identity(model)
        return model

    def learning_rate_at(self, epoch: int, batch: int, batches: int, drops: int = 0) -> float:
        """The learning rate of one step.

        Args:
            epoch, batch: counted from 0.
            batches: in an epoch.
            drops: how often a plateau was met.
        """
        if self.schedule == "steps":
            return self.learning_rate * self.decay ** (epoch // self.decay_epochs)
        if self.schedule == "plateau":
            return self.learning_rate * self.decay**drops
        done = (epoch + batch / batches) / self.epochs
        return self.learning_rate * (1 + math.cos(math.pi * done)) / 2

    def ends_after(self, drops: int) -> bool:
        """Whether so many plateaus end the training."""
        rounding = 1 - 1e-9  # 1e-4 * 0.1 * 0.1 is not quite 1e-6
        return self.schedule == "plateau" and self.learning_rate_at(0, 0, 1, drops) < rounding * self.min_learning_rate

    def changed(self, **values: Any) -> Recipe:
        """This recipe with other values; those that are None stay."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `Recipe.from_dict` makes an equal one."""
        return asdict(self) | {name: list(getattr(self, name)) for name in _TUPLES}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """The inverse of to_dict. Raises TypeError or ValueError for anything else."""
        if unknown := values.keys() - {field.name for field in fields(cls)}:
            raise ValueError(f"unknown recipe keys {', '.join(sorted(unknown))}")
        return cls(**values)


# Fields that JSON makes lists of.
_TUPLES = ("betas", "blur_sigma", "jpeg_quality", "jpeg_encoders")

#: Crops of images that were never resized, which keeps the trace that the detector reads. The trace is local, so crops
#: are small: each is a harder question than a large one, and many are learned from in the time of a few. On simulated
#: generators the high learning rate carried over best to decoders that were not trained on.
DEFAULT = Recipe(
    name="default",
    policy="native",
    crop=32,
    resize=256,
    flip=True,
    batch_size=32,
    epochs=12,
    learning_rate=3e-3,
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

#: Wang et al., CVPR 2020, Section 4.1. Their images of 256x256 are cropped without a resize, as "centre" does; it also
#: tests on centre crops, as they do.
CNNDETECTION = Recipe(
    name="cnndetection",
    policy="centre",
    crop=224,
    resize=256,
    flip=True,
    batch_size=64,
    epochs=10_000,
    learning_rate=1e-4,
    betas=(0.9, 0.999),
    schedule="plateau",
    decay=0.1,
    decay_epochs=5,
    min_improvement=0.001,
    min_learning_rate=1e-6,
    model="CNNDetector",
    **AUGMENTATIONS["blur+jpeg-0.5"],
)

#: CNNDETECTION for small images, minutes of a CPU, and random weights, which the paper did not train from.
CNNDETECTION_SMALL = CNNDETECTION.changed(
    name="cnndetection-small",
    policy="native",  # tests on whole images, the paper's "no crop"
    crop=64,
    batch_size=32,
    epochs=12,
    learning_rate=1e-3,
    identity_start=True,  # without it, random weights stayed at chance: 3 epochs at 1e-4, 7 at 3e-4, 4 at 1e-3
    schedule="cosine",  # so few epochs meet no plateau
    decay=1.0,
    min_learning_rate=0.0,
    **AUGMENTATIONS["blur+jpeg-0.1"],
)

#: The detector in the box, trained on generators that were trained: both residuals, histories of both labels, and crops
#: large enough for what JPEG leaves of a trace. docs/choices.md has what was tried besides.
BOX = Recipe(
    name="box",
    policy="native",
    crop=96,
    resize=256,
    flip=True,
    batch_size=32,
    epochs=7,
    learning_rate=2e-3,
    betas=(0.9, 0.999),
    schedule="cosine",
    residual="npr+haar",
    delivery_probability=0.5,
    jpeg_quality=(40, 100),
)

#: Of the network's logit, where what the whole image says is added. The network has seen its training images, the
#: regression on their coherences can remember none of them: added as they are, the network's logit would say too much.
SHARE = 0.5

#: Of each image, drawn independently, that this regression is fitted to, see detector.training.periodicity.
DELIVERIES = 4

RECIPES = {recipe.name: recipe for recipe in (DEFAULT, NPR, CNNDETECTION, CNNDETECTION_SMALL, BOX)}
