"""Measures a detector on generators: a row of metrics for each and their mean, as the papers report them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from detector.data import FAKE, REAL, BadImage, Collection, Preprocessing
from detector.evaluation.bootstrap import Interval, Resamples, intervals, mean_intervals, resampled_metrics
from detector.evaluation.metrics import RATES, Metrics, compute_metrics
from detector.evaluation.provenance import Provenance, provenance
from detector.evaluation.score_file import ScoreFile
from detector.evaluation.scoring import Scores, score_collection
from detector.models import Detector

KIND = "evaluation"

# Scores are kept to draw curves with; more digits would only make files larger.
_DIGITS = 6


@dataclass(frozen=True)
class Row:
    """One generator, or one of its classes.

    Attributes:
        metrics: of all its images.
        intervals: the middle 95 % of resampled "accuracy", "average_precision" and "auc", as far as they are defined;
            empty without bootstrap.
        classes: a row for each class, where the layout has classes.
        real_scores, fake_scores: sorted, rounded to six digits; empty in the rows of classes.
    """

    metrics: Metrics
    intervals: dict[str, Interval] = field(default_factory=dict)
    classes: dict[str, Row] = field(default_factory=dict)
    real_scores: list[float] = field(default_factory=list)
    fake_scores: list[float] = field(default_factory=list)

    @property
    def images(self) -> int:
        return self.metrics.images


@dataclass(frozen=True)
class Evaluation:
    """Metrics by generator, and the images that could not be read and do not count.

    Attributes:
        provenance: what was measured on what.
        rows: by generator, sorted by name.
        bad: images that could not be decoded.
        mean_intervals: of the means of accuracy, average precision and AUC; empty without bootstrap.
    """

    provenance: Provenance
    rows: dict[str, Row]
    bad: list[BadImage] = field(default_factory=list)
    mean_intervals: dict[str, Interval] = field(default_factory=dict)

    @property
    def mean(self) -> dict[str, float | None]:
        """The unweighted mean of every metric of RATES over the generators that define it; None where none does."""
        means: dict[str, float | None] = {}
        for name in RATES:
            values = [value for row in self.rows.values() if (value := getattr(row.metrics, name)) is not None]
            means[name] = sum(values) / len(values) if values else None
        return means

    @property
    def images(self) -> int:
        return sum(row.images for row in self.rows.values())

    @property
    def undefined(self) -> list[str]:
        """A sentence for every generator of which some metric is undefined."""
        return [
            f"{name}: no {'reals' if row.metrics.reals == 0 else 'fakes'}, so average precision and AUC are undefined"
            for name, row in self.rows.items()
            if row.metrics.average_precision is None and row.images
        ] + [f"{name}: no readable image" for name, row in self.rows.items() if not row.images]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict; fractions in 0..1.

        `kind` "evaluation"; the provenance's fields; `generators`, a list of rows; `mean` and `mean_intervals`; `bad`,
        a list of paths and reasons.
        """
        return {
            "kind": KIND,
            **self.provenance.to_dict(),
            "generators": [_row_to_dict("generator", name, row) for name, row in self.rows.items()],
            "mean": self.mean,
            "mean_intervals": _lists(self.mean_intervals),
            "bad": [{"index": bad.index, "path": str(bad.path), "reason": bad.reason} for bad in self.bad],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of to_dict.

        Raises:
            ValueError: the values are no evaluation's.
        """
        if values.get("kind") != KIND:
            raise ValueError(f"no evaluation, its kind is {values.get('kind')!r}")
        try:
            return cls(
                Provenance.from_dict(values),
                dict(_row_from_dict("generator", row) for row in values["generators"]),
                [BadImage(bad["index"], Path(bad["path"]), bad["reason"]) for bad in values["bad"]],
                _tuples(values["mean_intervals"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged evaluation ({type(error).__name__}: {error})") from error


def evaluate(
    model: Detector,
    collection: Collection,
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 32,
    workers: int = 0,
    bootstrap: int = 0,
    seed: int = 0,
    name: str | None = None,
    weights: str = "",
    command: str = "",
    resume: ScoreFile | None = None,
    verbose: bool = False,
) -> Evaluation:
    """Scores every image of a collection and measures each generator.

    Args:
        model: the detector; in evaluation mode afterwards.
        collection: the images. Those that cannot be decoded are listed and do not count.
        preprocessing: treatment of the images, by default the model's own.
        batch_size: on a GPU, images of one size that are scored together.
        workers: threads that decode; results do not depend on their number.
        bootstrap: resamples that intervals are computed of; 0 for no intervals.
        seed: of the resamples, which for each generator depend on nothing but its own images.
        name: of the detector in tables, by default its class's.
        weights, command: where its weights come from, and what asked for this, for the record.
        resume: scores that are in it are taken from it, and the others added.
        verbose: show progress.
    """
    if isinstance(bootstrap, bool) or not isinstance(bootstrap, int):
        raise TypeError(f"bootstrap must be an int, got {type(bootstrap).__name__}")
    if bootstrap < 0:
        raise ValueError(f"bootstrap must not be negative, got {bootstrap}")
    preprocessing = preprocessing or model.preprocessing
    origin = provenance(model, collection, preprocessing, name=name, weights=weights, command=command)
    scores = score_collection(
        model,
        collection,
        preprocessing=preprocessing,
        batch_size=batch_size,
        workers=workers,
        resume=resume,
        verbose=verbose,
        task=origin.detector,
    )
    rows, resampled = {}, []
    for generator, members in collection.by_generator().items():
        draws = _resampled(scores, generator, None, bootstrap, seed)
        classes = {
            category: Row(
                compute_metrics(*scores.of_generator(generator, category)),
                intervals(_resampled(scores, generator, category, bootstrap, seed)),
            )
            for category in members.categories
        }
        labels, values = scores.of_generator(generator)
        rows[generator] = Row(
            compute_metrics(labels, values),
            intervals(draws),
            classes,
            _kept(labels, values, REAL),
            _kept(labels, values, FAKE),
        )
        resampled.append(draws)
    return Evaluation(origin, rows, scores.bad, mean_intervals(resampled))


def _resampled(scores: Scores, generator: str, category: str | None, resamples: int, seed: int) -> Resamples:
    if not resamples:
        return {}
    rng = np.random.default_rng([seed, *f"{generator}/{category or ''}".encode()])
    return resampled_metrics(*scores.of_generator(generator, category), resamples, rng)


def _kept(labels: list[int], scores: list[float], label: int) -> list[float]:
    return sorted(float(f"{score:.{_DIGITS}g}") for score, of in zip(scores, labels, strict=True) if of == label)


def _row_to_dict(kind: str, name: str, row: Row) -> dict[str, Any]:
    values = {kind: name, "images": row.images, **asdict(row.metrics), "intervals": _lists(row.intervals)}
    if kind == "class":
        return values
    return values | {
        "classes": [_row_to_dict("class", category, inner) for category, inner in row.classes.items()],
        "scores": {"real": row.real_scores, "fake": row.fake_scores},
    }


def _row_from_dict(kind: str, values: Mapping[str, Any]) -> tuple[str, Row]:
    metrics = Metrics(**{name: values[name] for name in Metrics.__dataclass_fields__ if name in values})
    row = Row(metrics, _tuples(values["intervals"]))
    if kind == "generator":
        classes = dict(_row_from_dict("class", inner) for inner in values["classes"])
        row = Row(metrics, row.intervals, classes, values["scores"]["real"], values["scores"]["fake"])
    return values[kind], row


def _lists(intervals: Mapping[str, Interval]) -> dict[str, list[float]]:
    return {name: list(interval) for name, interval in intervals.items()}


def _tuples(intervals: Mapping[str, Any]) -> dict[str, Interval]:
    return {name: (low, high) for name, (low, high) in intervals.items()}
