"""How a detector fares when images are degraded on their way: accuracy and average precision over their strength.

Each sweep degrades the decoded images by one means in rising strength, before the detector's own test view: Gaussian
blur and JPEG, as Wang et al. do (CVPR 2020), resizing by a factor, and Gaussian noise. One more sweep compares what to
do about images that are too large, as they compare it on images in the wild: the centre crop, or resizing to the same
side.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from torch import Tensor

from detector.console import say
from detector.data import Collection, Preprocessing
from detector.data.dataset import seeded_generator
from detector.data.degradations import gaussian_blur, gaussian_noise, jpeg, resize
from detector.evaluation.formats import percent
from detector.evaluation.metrics import chance_average_precision, compute_metrics
from detector.evaluation.provenance import Provenance, data_digest, provenance
from detector.evaluation.score_file import ScoreFile
from detector.evaluation.scoring import Scores, score_collection
from detector.models import Detector

KIND = "robustness"


@dataclass(frozen=True)
class Condition:
    """One strength of one degradation.

    Attributes:
        sweep: "blur", "jpeg", "resize", "noise", "view", or "none" for untouched images.
        strength: standard deviation in pixels, JPEG quality, factor, or standard deviation in grey levels; for "view"
            CROP or RESIZE.
    """

    sweep: str
    strength: float

    def __str__(self) -> str:
        if self == UNTOUCHED:
            return "untouched"
        if self.sweep == "view":
            return "centre crop" if self.strength == CROP else "resized"
        return f"{self.sweep} {self.strength:g}"


UNTOUCHED = Condition("none", 0)

CROP, RESIZE = 0, 1
"""What the sweep "view" compares."""

SWEEPS: dict[str, tuple[float, ...]] = {
    "blur": (0, 0.5, 1, 2, 3, 4),
    "jpeg": (100, 90, 80, 70, 60, 50, 40, 30),
    "resize": (0.5, 0.6, 0.75, 1, 1.25, 1.5, 2),
    "noise": (0, 1, 2, 4, 8, 16),
    "view": (CROP, RESIZE),
}
"""The strengths of every sweep."""

_LEAVES_ALONE: dict[str, float] = {"blur": 0, "resize": 1, "noise": 0}


@dataclass(frozen=True)
class Point:
    """What a detector reaches under one condition; fractions in 0..1, None where undefined.

    Attributes:
        images: that could be read.
        accuracy, average_precision: of all images together.
        mean_accuracy, mean_average_precision: the means over the generators that define them.
        chance: the mean over the generators of what average precision to expect of scores that know nothing, see
            :func:`detector.evaluation.metrics.chance_average_precision`.
    """

    images: int
    accuracy: float | None
    average_precision: float | None
    mean_accuracy: float | None
    mean_average_precision: float | None
    chance: float | None


@dataclass(frozen=True)
class Robustness:
    """Points by condition.

    Attributes:
        provenance: what was measured on what.
        data_digest: SHA-256 of the images, see :func:`detector.evaluation.provenance.data_digest`.
        seed: of the noise.
        sweeps: the strengths asked for.
        points: by condition, as far as they are measured.
    """

    provenance: Provenance
    data_digest: str
    seed: int
    sweeps: dict[str, tuple[float, ...]]
    points: dict[Condition, Point] = field(default_factory=dict)

    def curve(self, sweep: str) -> list[tuple[float, Point]]:
        """Strengths and points of one sweep, in its order; strengths not measured are left out."""
        conditions = [(strength, condition(sweep, strength)) for strength in self.sweeps[sweep]]
        return [(strength, self.points[which]) for strength, which in conditions if which in self.points]

    def same_measurement(self, other: Robustness) -> bool:
        """Whether points of the other may be taken for this one's: weights, images, treatment and seed agree."""

        def identity(result: Robustness) -> tuple[Any, ...]:
            origin = result.provenance
            return origin.digest, origin.architecture, origin.preprocessing, result.data_digest, result.seed

        return identity(self) == identity(other)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict: `kind` "robustness", the provenance's fields, and a list of points."""
        return {
            "kind": KIND,
            **self.provenance.to_dict(),
            "data_digest": self.data_digest,
            "seed": self.seed,
            "sweeps": {sweep: list(strengths) for sweep, strengths in self.sweeps.items()},
            "points": [asdict(which) | asdict(point) for which, point in self.points.items()],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Robustness:
        """The inverse of to_dict.

        Raises:
            ValueError: the values are no robustness result's.
        """
        if values.get("kind") != KIND:
            raise ValueError(f"no robustness result, its kind is {values.get('kind')!r}")
        try:
            return cls(
                Provenance.from_dict(values),
                values["data_digest"],
                values["seed"],
                {sweep: tuple(strengths) for sweep, strengths in values["sweeps"].items()},
                {
                    Condition(point["sweep"], point["strength"]): Point(
                        **{name: point[name] for name in Point.__dataclass_fields__}
                    )
                    for point in values["points"]
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged robustness result ({type(error).__name__}: {error})") from error


def condition(sweep: str, strength: float) -> Condition:
    """The condition of a sweep; strengths that change nothing are UNTOUCHED in every sweep."""
    return UNTOUCHED if _LEAVES_ALONE.get(sweep) == strength else Condition(sweep, strength)


def robustness(
    model: Detector,
    collection: Collection,
    *,
    sweeps: Mapping[str, Sequence[float]] = SWEEPS,
    preprocessing: Preprocessing | None = None,
    seed: int = 0,
    batch_size: int = 32,
    workers: int = 0,
    name: str | None = None,
    weights: str = "",
    command: str = "",
    done: Sequence[Robustness] = (),
    save: Callable[[Robustness], None] | None = None,
    resume: ScoreFile | None = None,
    verbose: bool = False,
) -> Robustness:
    """Scores every image of a collection under every condition of the sweeps, and once untouched.

    Args:
        sweeps: strengths by sweep, of those in SWEEPS.
        seed: of the noise, which depends on it and on the image's place in the collection alone.
        done: earlier results; what they hold is taken over where weights, images, treatment and seed are the same,
            whole sweeps that are not asked for included.
        save: called with all points so far, after each condition that was measured.
        model, collection, preprocessing, batch_size, workers, name, weights, command, resume, verbose: as in
            :func:`detector.evaluation.evaluate`.

    Raises:
        ValueError: a sweep is unknown, or has a strength that it cannot have.
    """
    if unknown := [sweep for sweep in sweeps if sweep not in SWEEPS]:
        raise ValueError(f"unknown sweeps {', '.join(unknown)}; there are {', '.join(SWEEPS)}")
    preprocessing = preprocessing or model.preprocessing
    origin = provenance(model, collection, preprocessing, name=name, weights=weights, command=command)
    result = _taken_over(Robustness(origin, data_digest(collection), seed, {}), done)
    result = replace(result, sweeps=result.sweeps | {sweep: tuple(strengths) for sweep, strengths in sweeps.items()})
    result = _with_points(result, result.points)
    missing = [which for which in _conditions(sweeps) if which not in result.points]
    for number, which in enumerate(missing, start=1):
        scores = score_collection(
            model,
            collection,
            preprocessing=_view(which, preprocessing),
            transform=Degrade(which, seed),
            batch_size=batch_size,
            workers=workers,
            resume=resume,
            verbose=verbose,
            task=f"{origin.detector}, {which}",
        )
        point = _point(scores)
        if verbose:
            reached = percent(point.mean_average_precision)
            say(f"{origin.detector}, {which} ({number} of {len(missing)}): mean AP {reached}")
        result = _with_points(result, result.points | {which: point})
        if save is not None:
            save(result)
    return result


def _taken_over(result: Robustness, done: Sequence[Robustness]) -> Robustness:
    """The result with the sweeps and points of earlier ones that measured the same."""
    for earlier in done:
        if result.same_measurement(earlier):
            result = replace(result, sweeps=result.sweeps | earlier.sweeps, points=result.points | earlier.points)
    return result


def _with_points(result: Robustness, points: Mapping[Condition, Point]) -> Robustness:
    """The result with those points that its sweeps name, in their order."""
    return replace(result, points={which: points[which] for which in _conditions(result.sweeps) if which in points})


def _conditions(sweeps: Mapping[str, Sequence[float]]) -> list[Condition]:
    """Each once, in their order, UNTOUCHED first."""
    named = [condition(sweep, strength) for sweep, strengths in sweeps.items() for strength in strengths]
    return list(dict.fromkeys([UNTOUCHED, *named]))


@dataclass(frozen=True)
class Degrade:
    """Degrades images under one condition.

    The noise follows from the seed and the image's index alone, and is the same at every strength, only stronger, so
    that the curve of an image does not jump by chance.
    """

    condition: Condition
    seed: int

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, H', W']."""
        strength = self.condition.strength
        match self.condition.sweep:
            case "blur":
                return gaussian_blur(image, strength)
            case "jpeg":
                return jpeg(image, int(strength))
            case "resize":
                return resize(image, strength)
            case "noise":
                return gaussian_noise(image, strength, seeded_generator(self.seed, index))
        return image


def _view(which: Condition, preprocessing: Preprocessing) -> Preprocessing:
    """The detector's own treatment, but for the sweep "view"."""
    if which.sweep != "view":
        return preprocessing
    if which.strength == CROP:
        return replace(preprocessing, policy="centre")
    return replace(preprocessing, policy="resize", resize=preprocessing.crop)


def _point(scores: Scores) -> Point:
    together = compute_metrics(scores.labels, scores.scores)
    single = [compute_metrics(*scores.of_generator(name)) for name in dict.fromkeys(scores.generators)]
    return Point(
        together.images,
        together.accuracy,
        together.average_precision,
        _mean([metrics.accuracy for metrics in single]),
        _mean([metrics.average_precision for metrics in single]),
        _mean([chance_average_precision(metrics.reals, metrics.fakes) for metrics in single]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
