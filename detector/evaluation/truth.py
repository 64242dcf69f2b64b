"""A measure that neither format nor size nor counts can sweeten.

Where reals and fakes differ in how they were stored, a detector tells them apart by that, and its accuracy says nothing
of generators. So every image, real or fake, first passes one delivery; every source of fakes is measured against
pools of reals of one history beside its own reals; average precision weighs both labels alike, whatever their counts;
and reals called fake are counted for every folder of reals by itself, with an exact interval.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from detector.data import FAKE, REAL, BadImage, Collection, Delivery, Preprocessing
from detector.data.dataset import seeded_generator
from detector.evaluation.abstention import Abstention, measure_abstention
from detector.evaluation.binomial import clopper_pearson
from detector.evaluation.bootstrap import Interval
from detector.evaluation.encodings import count_encodings
from detector.evaluation.metrics import balanced_average_precision, roc_auc
from detector.evaluation.pools import OWN, Pool
from detector.evaluation.provenance import Provenance, provenance
from detector.evaluation.score_file import ScoreFile
from detector.evaluation.scoring import Scores, score_collection
from detector.evaluation.threshold import threshold_of
from detector.models import Detector

KIND = "truth"


def mean(values: Mapping[str, float]) -> float | None:
    """None without values."""
    return sum(values.values()) / len(values) if values else None


def worst(values: Mapping[str, float]) -> float | None:
    """The lowest; None without values."""
    return min(values.values(), default=None)


SUMMARIES: dict[str, Callable[[Mapping[str, float]], float | None]] = {"mean": mean, "worst": worst}
"""Over sources, of balanced average precision and of recall."""


@dataclass(frozen=True)
class Share:
    """How many of some images are called fake: of fakes the recall, of reals the false alarms.

    Attributes:
        called: images whose score is above the threshold.
        images: all that could be read.
    """

    called: int
    images: int

    @property
    def rate(self) -> float | None:
        """In 0..1; None without images."""
        return self.called / self.images if self.images else None

    @property
    def interval(self) -> Interval | None:
        """Clopper and Pearson's of 95 %; None without images."""
        return clopper_pearson(self.called, self.images)

    def to_dict(self, rate: str) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict: `images`, `called_fake`, the rate under the given name, `interval`."""
        return {
            "images": self.images,
            "called_fake": self.called,
            rate: self.rate,
            "interval": None if self.interval is None else list(self.interval),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Share:
        """From a dictionary that may hold more; rate and interval follow from the rest and are not read."""
        return cls(values["called_fake"], values["images"])


@dataclass(frozen=True)
class Separation:
    """How well the scores of fakes and reals are told apart, at any threshold.

    Attributes:
        reals: how many.
        balanced_average_precision: see :func:`detector.evaluation.metrics.balanced_average_precision`; None without
            reals or fakes.
        auc: likewise.
    """

    reals: int
    balanced_average_precision: float | None
    auc: float | None


@dataclass(frozen=True)
class Source:
    """Fakes of one generator.

    Attributes:
        recall: the share called fake.
        against: by the name of a pool, or OWN for the generator's own reals, which are missing where it has none.
    """

    recall: Share
    against: dict[str, Separation]


@dataclass(frozen=True)
class Measurement:
    """All images after one delivery.

    Attributes:
        delivery: as text.
        sources: by generator, in the collection's order.
        reals: false alarms by folder of reals: the data set's generators, then the parts of pools that are no
            generator's whole reals.
        pools: false alarms by pool.
        abstention: which verdicts are withheld; None where nobody asked.
    """

    delivery: str
    sources: dict[str, Source]
    reals: dict[str, Share]
    pools: dict[str, Share]
    abstention: Abstention | None = None

    def precisions(self, pool: str) -> dict[str, float]:
        """Balanced average precision against a pool, or OWN, of the sources that it is defined for."""
        found = {name: source.against[pool] for name, source in self.sources.items() if pool in source.against}
        return {
            name: separation.balanced_average_precision
            for name, separation in found.items()
            if separation.balanced_average_precision is not None
        }

    @property
    def recalls(self) -> dict[str, float]:
        """By source."""
        return _rates((name, source.recall) for name, source in self.sources.items())

    @property
    def worst_false_alarms(self) -> float | None:
        """Of all folders of reals."""
        return max(_rates(self.reals.items()).values(), default=None)


@dataclass(frozen=True)
class Truth:
    """One detector after one or several deliveries.

    Attributes:
        provenance: what was measured on what.
        threshold: scores above it mean fake.
        seed: of what deliveries draw.
        pools: the folders of reals, as `Measurement.reals` names them, of each pool.
        told_by_headers: whether the pools were told by the files' headers, see
            :func:`detector.evaluation.pools_by_encoding`, and not named.
        fake_encodings: how many files of each source are encoded how.
        real_encodings: of each folder of reals.
        measurements: one for each delivery.
        bad: images that could not be decoded and do not count.
    """

    provenance: Provenance
    threshold: float
    seed: int
    pools: dict[str, tuple[str, ...]]
    told_by_headers: bool
    fake_encodings: dict[str, dict[str, int]]
    real_encodings: dict[str, dict[str, int]]
    measurements: tuple[Measurement, ...]
    bad: list[BadImage] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """What sources are measured against: OWN, where any source has own reals, and the pools."""
        own = any(OWN in source.against for part in self.measurements for source in part.sources.values())
        return [*[OWN] * own, *self.pools]

    @property
    def images(self) -> int:
        """That could be read."""
        return self.provenance.images - len(self.bad)

    @property
    def remarks(self) -> list[str]:
        """Sentences on what is not measured."""
        if not self.measurements:
            return []
        sources = self.measurements[0].sources
        found = [
            f"{name}: no reals of its own and no pool, so balanced AP and AUC are undefined"
            for name, source in sources.items()
            if not source.against
        ]
        return found if sources else ["no fakes: false alarms alone are measured"]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict; fractions in 0..1.

        `kind` "truth"; the provenance's fields; `threshold`, `seed`; `pools`, lists of folders by name;
        `told_by_headers`, `fake_encodings`, `real_encodings`; `measurements`, a list with `delivery`,
        `sources`, `reals`, `pools`, `summaries`, `worst_false_alarms` and, where it was asked for, `abstention`, see
        :class:`detector.evaluation.abstention.Abstention`; `bad`, a list of paths and reasons.
        """
        return {
            "kind": KIND,
            **self.provenance.to_dict(),
            "threshold": self.threshold,
            "seed": self.seed,
            "pools": {name: list(parts) for name, parts in self.pools.items()},
            "told_by_headers": self.told_by_headers,
            "fake_encodings": self.fake_encodings,
            "real_encodings": self.real_encodings,
            "measurements": [_measurement_to_dict(part, self.columns) for part in self.measurements],
            "bad": [{"index": bad.index, "path": str(bad.path), "reason": bad.reason} for bad in self.bad],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Truth:
        """The inverse of to_dict.

        Raises:
            ValueError: the values are no such result's.
        """
        if values.get("kind") != KIND:
            raise ValueError(f"no truth, its kind is {values.get('kind')!r}")
        try:
            return cls(
                Provenance.from_dict(values),
                values["threshold"],
                values["seed"],
                {name: tuple(parts) for name, parts in values["pools"].items()},
                values["told_by_headers"],
                values["fake_encodings"],
                values["real_encodings"],
                tuple(_measurement_from_dict(part) for part in values["measurements"]),
                [BadImage(bad["index"], Path(bad["path"]), bad["reason"]) for bad in values["bad"]],
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged truth ({type(error).__name__}: {error})") from error


def measure_truth(
    model: Detector,
    collection: Collection,
    pools: Sequence[Pool] = (),
    deliveries: Sequence[Delivery] = (),
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 32,
    workers: int = 0,
    seed: int = 0,
    told_by_headers: bool = False,
    abstain: bool = False,
    name: str | None = None,
    weights: str = "",
    command: str = "",
    resume: ScoreFile | None = None,
    verbose: bool = False,
) -> Truth:
    """Scores every image once after each delivery, and measures each source of fakes and each folder of reals.

    Args:
        model: the detector; in evaluation mode afterwards.
        collection: the images, with those of the pools, see :func:`detector.evaluation.with_pools`. Pools lose images
            that are not in it.
        pools: reals that every source is measured against.
        deliveries: that all images pass before the detector's own treatment; by default the files as they are.
        preprocessing: that treatment, by default the model's own.
        batch_size: on a GPU, images of one size that are scored together.
        workers: threads that decode; results do not depend on their number.
        seed: of what deliveries draw, which depends on nothing else but the image's place in the collection.
        told_by_headers: whether the pools were, for the record.
        abstain: also measure which verdicts are withheld, for which every image is read once more a delivery.
        name: of the detector in tables, by default its class's.
        weights, command: where its weights come from, and what asked for this, for the record.
        resume: scores that are in it are taken from it, and the others added.
        verbose: show progress.

    Raises:
        ValueError: two deliveries are the same, or the model's threshold is none.
    """
    deliveries = deliveries or [Delivery.parse("none")]
    if len({str(delivery) for delivery in deliveries}) < len(deliveries):
        raise ValueError(f"deliveries must differ, got {', '.join(map(str, deliveries))}")
    threshold = threshold_of(model)
    preprocessing = preprocessing or model.preprocessing
    origin = provenance(model, collection, preprocessing, name=name, weights=weights, command=command)
    groups = _Groups(collection, pools)
    measurements, bad = [], []
    scores_of: dict[Delivery, dict[int, float]] = {}
    for delivery in deliveries:
        scores = score_collection(
            model,
            collection,
            preprocessing=preprocessing,
            transform=Deliver(delivery, seed),
            batch_size=batch_size,
            workers=workers,
            resume=resume,
            verbose=verbose,
            task=f"{origin.detector}, {delivery}",
        )
        scores_of[delivery] = groups.by_index(scores)
        measurements.append(groups.measure(str(delivery), scores_of[delivery], threshold))
        bad = scores.bad  # the same files each time
    if abstain:
        withheld = measure_abstention(
            model,
            collection,
            groups.fakes,
            groups.reals,
            scores_of,
            threshold,
            preprocessing=preprocessing,
            seed=seed,
            verbose=verbose,
        )
        measurements = [replace(part, abstention=of) for part, of in zip(measurements, withheld, strict=True)]
    return Truth(
        origin,
        threshold,
        seed,
        groups.pool_parts,
        told_by_headers,
        {name: groups.encodings(indices) for name, indices in groups.fakes.items()},
        {name: groups.encodings(indices) for name, indices in groups.reals.items()},
        tuple(measurements),
        bad,
    )


@dataclass(frozen=True)
class Deliver:
    """A delivery as a transform of a data set's images; what it draws follows from the seed and the image's index."""

    delivery: Delivery
    seed: int

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """uint8 [3, H, W] -> uint8 [3, H', W']."""
        return self.delivery(image, seeded_generator(self.seed, index))


class _Groups:
    """Which of a collection's images belong together, as indices.

    Attributes:
        fakes: by generator.
        own: reals by generator.
        reals: `own`, and the parts of pools that are not the same as one of these.
        pools: by pool.
        pool_parts: names of `reals` by pool.
    """

    def __init__(self, collection: Collection, pools: Iterable[Pool]) -> None:
        self._paths = [sample.path for sample in collection.samples]
        index_of = {os.path.realpath(path): index for index, path in enumerate(self._paths)}
        self.fakes = _by_generator(collection, FAKE)
        self.own = _by_generator(collection, REAL)
        self.reals = dict(self.own)
        self.pools: dict[str, list[int]] = {}
        self.pool_parts: dict[str, tuple[str, ...]] = {}
        for pool in pools:
            names = []
            for part, paths in pool.parts.items():
                found = (index_of.get(os.path.realpath(path)) for path in paths)
                members = sorted({index for index in found if index is not None})
                same = next((name for name, indices in self.reals.items() if indices == members), part)
                self.reals[same] = members
                names.append(same)
            self.pool_parts[pool.name] = tuple(names)
            self.pools[pool.name] = sorted({index for name in names for index in self.reals[name]})

    def encodings(self, indices: Iterable[int]) -> dict[str, int]:
        return count_encodings(self._paths[index] for index in indices)

    def by_index(self, scores: Scores) -> dict[int, float]:
        """Of the images that could be read."""
        bad = {image.index for image in scores.bad}
        readable = [index for index in range(len(self._paths)) if index not in bad]
        return dict(zip(readable, scores.scores, strict=True))

    def measure(self, delivery: str, score_of: Mapping[int, float], threshold: float) -> Measurement:
        def of(indices: Iterable[int]) -> list[float]:
            return [score_of[index] for index in indices if index in score_of]

        def share(indices: Iterable[int]) -> Share:
            found = of(indices)
            return Share(sum(score > threshold for score in found), len(found))

        sources = {}
        for name, fakes in self.fakes.items():
            reals = ({OWN: self.own[name]} if name in self.own else {}) | self.pools
            against = {pool: _separation(of(fakes), of(indices)) for pool, indices in reals.items()}
            sources[name] = Source(share(fakes), against)
        return Measurement(
            delivery,
            sources,
            {name: share(indices) for name, indices in self.reals.items()},
            {name: share(indices) for name, indices in self.pools.items()},
        )


def _by_generator(collection: Collection, label: int) -> dict[str, list[int]]:
    """Indices of the images of a label, generators in the collection's order."""
    groups: dict[str, list[int]] = {}
    for index, sample in enumerate(collection.samples):
        if sample.label == label:
            groups.setdefault(sample.generator, []).append(index)
    return groups


def _separation(fakes: Sequence[float], reals: Sequence[float]) -> Separation:
    labels = [FAKE] * len(fakes) + [REAL] * len(reals)
    scores = [*fakes, *reals]
    return Separation(len(reals), balanced_average_precision(labels, scores), roc_auc(labels, scores))


def _rates(shares: Iterable[tuple[str, Share]]) -> dict[str, float]:
    return {name: share.rate for name, share in shares if share.rate is not None}


def _measurement_to_dict(part: Measurement, columns: Sequence[str]) -> dict[str, Any]:
    return {
        "delivery": part.delivery,
        "sources": [
            {
                "source": name,
                **source.recall.to_dict("recall"),
                "against": {
                    pool: {
                        "reals": separation.reals,
                        "balanced_average_precision": separation.balanced_average_precision,
                        "auc": separation.auc,
                    }
                    for pool, separation in source.against.items()
                },
            }
            for name, source in part.sources.items()
        ],
        "reals": [{"reals": name, **share.to_dict("false_alarms")} for name, share in part.reals.items()],
        "pools": [{"pool": name, **share.to_dict("false_alarms")} for name, share in part.pools.items()],
        "summaries": {
            name: {
                "balanced_average_precision": {pool: summary(part.precisions(pool)) for pool in columns},
                "recall": summary(part.recalls),
            }
            for name, summary in SUMMARIES.items()
        },
        "worst_false_alarms": part.worst_false_alarms,
        **({} if part.abstention is None else {"abstention": part.abstention.to_dict()}),
    }


def _measurement_from_dict(values: Mapping[str, Any]) -> Measurement:
    """Rates, intervals and summaries follow from the rest and are not read."""
    return Measurement(
        values["delivery"],
        {
            row["source"]: Source(
                Share.from_dict(row),
                {
                    pool: Separation(of["reals"], of["balanced_average_precision"], of["auc"])
                    for pool, of in row["against"].items()
                },
            )
            for row in values["sources"]
        },
        {row["reals"]: Share.from_dict(row) for row in values["reals"]},
        {row["pool"]: Share.from_dict(row) for row in values["pools"]},
        None if values.get("abstention") is None else Abstention.from_dict(values["abstention"]),
    )
