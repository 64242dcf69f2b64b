"""What a detector's score goes by: the facts that it follows within a label, apart from what a delivery does to it.

Within one label every image deserves the same answer. A score that rises and falls with a fact there goes by that fact:
a bias, which a data set that leaks the fact teaches and rewards. That a score falls when images are compressed or
resized is another matter, a lack of robustness, and measured by itself (arXiv 2605.31153 tells the two apart).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.audit.leaks import LEVEL, Column
from detector.audit.significance import holm, permutation_p
from detector.data import FAKE, REAL, Collection, Delivery, Preprocessing
from detector.evaluation.delong import midranks
from detector.evaluation.metrics import roc_auc
from detector.evaluation.provenance import Provenance, provenance
from detector.evaluation.scoring import score_collection
from detector.evaluation.threshold import threshold_of
from detector.evaluation.truth import Deliver
from detector.models import Detector

DELIVERIES = ("jpeg:80", "resize:0.5")
"""By default."""

FEWEST = 10
"""Images of a label that must have a fact, for following it to be tested."""

# Categories whose mean score is told, the most frequent.
_LISTED = 8


@dataclass(frozen=True)
class Following:
    """How far the score follows one fact within one label.

    Attributes:
        fact, kind: see :class:`detector.audit.table.Fact`.
        label: 0 real, 1 fake.
        images: of that label that have the fact.
        strength: of numbers Spearman's rank correlation, -1..1, with the sign; of categories the correlation ratio of
            the scores' ranks, 0..1, less what as many categories would reach by chance.
        p: the chance of that strength were the scores dealt out anew, corrected for the number of facts and labels.
        means: of categories, the mean score of the most frequent.
    """

    fact: str
    kind: str
    label: int
    images: int
    strength: float
    p: float
    means: dict[str, float] | None = None

    @property
    def found(self) -> bool:
        """Whether the score follows the fact."""
        return self.p <= LEVEL

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {**self.__dict__, "found": self.found}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Following:
        """The inverse of to_dict."""
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Delivered:
    """The scores after one delivery.

    Attributes:
        delivery: as text.
        auc: None without both labels.
        real_score, fake_score: mean scores of the reals and of the fakes.
        false_alarms, found: shares of the reals and of the fakes above the detector's threshold.
    """

    delivery: str
    auc: float | None
    real_score: float | None
    fake_score: float | None
    false_alarms: float | None
    found: float | None


@dataclass(frozen=True)
class Bias:
    """One detector.

    Attributes:
        provenance: which, with what treatment of images.
        threshold: scores above it mean fake.
        following: every fact that could be tested, the reals' before the fakes'.
        delivered: the scores of the files as they are ("none"), then after each delivery.
    """

    provenance: Provenance
    threshold: float
    following: tuple[Following, ...]
    delivered: tuple[Delivered, ...]

    @property
    def name(self) -> str:
        return self.provenance.detector

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict."""
        return {
            "provenance": self.provenance.to_dict(),
            "threshold": self.threshold,
            "following": [following.to_dict() for following in self.following],
            "delivered": [dict(delivered.__dict__) for delivered in self.delivered],
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Bias:
        return cls(
            Provenance.from_dict(values["provenance"]),
            values["threshold"],
            tuple(Following.from_dict(following) for following in values["following"]),
            tuple(Delivered(**delivered) for delivered in values["delivered"]),
        )


def measure_bias(
    model: Detector,
    collection: Collection,
    columns: Sequence[Column],
    deliveries: Sequence[Delivery] = (),
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    name: str | None = None,
    weights: str = "",
    command: str = "",
    verbose: bool = False,
) -> Bias:
    """Scores the images as they are and after each delivery.

    Args:
        model: the detector; in evaluation mode afterwards.
        collection: images that can all be decoded.
        columns: their facts, see :func:`detector.audit.leaks.columns`.
        deliveries: besides none.
        preprocessing, batch_size, workers, name, weights, command, verbose: as of
            :func:`detector.evaluation.measure_truth`.
        seed: of permutations, and of what deliveries draw.
    """
    preprocessing = preprocessing or model.preprocessing
    origin = provenance(model, collection, preprocessing, name=name, weights=weights, command=command)
    threshold = threshold_of(model)
    labels = np.asarray(collection.labels)
    following: list[Following] = []
    delivered: list[Delivered] = []
    for delivery in dict.fromkeys([Delivery.parse("none"), *deliveries]):
        scores = score_collection(
            model,
            collection,
            preprocessing=preprocessing,
            transform=Deliver(delivery, seed),
            batch_size=batch_size,
            workers=workers,
            verbose=verbose,
            task=f"{origin.detector}, {delivery}",
        )
        if len(scores.scores) < len(collection):
            raise ValueError(f"{scores.bad[0].path}: {scores.bad[0].reason}, and could be read before")
        values = np.asarray(scores.scores)
        if not delivered:
            following = follow(columns, labels, values, seed)
        delivered.append(_delivered(str(delivery), labels, values, threshold))
    return Bias(origin, threshold, tuple(following), tuple(delivered))


def follow(
    columns: Sequence[Column], labels: NDArray[np.integer], scores: NDArray[np.float64], seed: int = 0
) -> list[Following]:
    """How far scores follow facts: every fact within every label that has FEWEST images and two values of it.

    Args:
        columns: facts of all images.
        labels: [N], 0 real, 1 fake.
        scores: float64 [N].
        seed: of the permutations.
    """
    found = []
    for label in (REAL, FAKE):
        for column in columns:
            kept = np.flatnonzero(labels[column.rows] == label)
            part = column.take(kept)
            if len(kept) < FEWEST or part.is_constant:
                continue
            of_part = scores[part.rows]
            if of_part.min() == of_part.max():
                continue
            rng = np.random.default_rng([seed, label, *column.fact.name.encode()])
            found.append(_follow(part, label, of_part, rng))
    corrected = holm([following.p for following in found])
    return [replace(following, p=p) for following, p in zip(found, corrected, strict=True)]


def _follow(part: Column, label: int, scores: NDArray[np.float64], rng: np.random.Generator) -> Following:
    ranks = midranks(scores)
    ranks = (ranks - ranks.mean()) / ranks.std()
    images = len(ranks)
    means = None
    if isinstance(part.values, np.ndarray):
        of_fact = midranks(part.values)
        of_fact = (of_fact - of_fact.mean()) / of_fact.std()
        strength = float(of_fact @ ranks / images)

        def statistic(permuted: NDArray) -> float:
            return abs(float(of_fact @ permuted))
    else:
        names, category, counts = np.unique(part.values, return_inverse=True, return_counts=True)

        def statistic(permuted: NDArray) -> float:
            return float((np.bincount(category, permuted) ** 2 / counts).sum())

        explained = statistic(ranks) / images
        by_chance = (len(names) - 1) / (images - 1)
        strength = float(np.sqrt(max(0.0, (explained - by_chance) / (1 - by_chance)))) if by_chance < 1 else 0.0
        often = np.argsort(-counts, kind="stable")[:_LISTED]
        means = {str(names[i]): float(scores[category == i].mean()) for i in often}
    fact = part.fact
    p = permutation_p(statistic, ranks, rng)
    return Following(fact.name, fact.kind, label, images, strength, p, means)


def _delivered(delivery: str, labels: NDArray[np.integer], scores: NDArray[np.float64], threshold: float) -> Delivered:
    reals, fakes = scores[labels == REAL], scores[labels == FAKE]

    def mean(values: NDArray) -> float | None:
        return float(values.mean()) if len(values) else None

    return Delivered(
        delivery,
        roc_auc(labels, scores),
        mean(reals),
        mean(fakes),
        mean(reals > threshold),
        mean(fakes > threshold),
    )
