"""What withholding verdicts is worth: how many, which, and whether any sign of doubt beats the score itself.

A sign of doubt is measured by the errors among the images that it leaves, at every coverage
(:mod:`detector.evaluation.risk_coverage`), and compared with p(1 - p) of the score p on the same images; both labels
weigh the same. Signs that do not beat it are of no use to `npr detect`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.console import Meter
from detector.data import Collection, Delivery, Preprocessing, decode
from detector.data.dataset import seeded_generator
from detector.data.layouts import FAKE
from detector.data.steps import Jpeg as JpegStep
from detector.doubt import REASONS, Limits, limits_of, reasons_of_image, reasons_of_score
from detector.evaluation.bootstrap import Interval, intervals
from detector.evaluation.calibration_cost import logits_of
from detector.evaluation.calibration_llr import Llr, llr_of
from detector.evaluation.risk_coverage import aurc, balanced_weights, risk_coverage
from detector.facts import read_compression
from detector.facts.jpeg import Jpeg
from detector.models import Detector

YARDSTICK = "p(1 - p)"
"""The sign that others must beat."""

NOTHING, EVERYTHING = "nothing", "the errors themselves"
"""What the worst sign and the best one know."""

RESAMPLES = 1000

POINTS = 100
"""Of curves that are kept to be drawn."""


@dataclass(frozen=True)
class Withheld:
    """Verdicts on images of one folder.

    Attributes:
        images: all that could be read.
        wrong: on the other side of the threshold, reasons or not.
        unsure: verdicts withheld ...
        unsure_wrong: ... of which so many would have been wrong.
        reasons: how many images have each reason, by its code; an image may have several.
    """

    images: int
    wrong: int
    unsure: int
    unsure_wrong: int
    reasons: dict[str, int]

    @property
    def coverage(self) -> float | None:
        """The share whose verdict is not withheld, in 0..1; None without images."""
        return 1 - self.unsure / self.images if self.images else None

    @property
    def why(self) -> str:
        """The reasons as text, each with its images."""
        return ", ".join(f"{code} {count}" for code, count in self.reasons.items())

    @property
    def wrong_of_unsure(self) -> float | None:
        """In 0..1; None where no verdict is withheld."""
        return self.unsure_wrong / self.unsure if self.unsure else None

    @property
    def wrong_of_rest(self) -> float | None:
        """In 0..1; None where all are withheld."""
        rest = self.images - self.unsure
        return (self.wrong - self.unsure_wrong) / rest if rest else None


@dataclass(frozen=True)
class Sign:
    """A sign of doubt.

    Attributes:
        aurc: the area under its risk-coverage curve, both labels weighing the same; lower is better.
        gain: by how much that of YARDSTICK is larger: the middle 95 % of draws of the images, stratified by label.
        curve: coverage and risk, both in 0..1, from the least doubted image on: at most POINTS of its points, evenly
            spaced in coverage; none in results of earlier releases.
    """

    aurc: float
    gain: Interval
    curve: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Abstention:
    """What withholding is worth after one delivery.

    Attributes:
        fakes: by source; wrong means called real.
        reals: by folder; wrong means called fake.
        totals: of all "fakes" and of all "reals", each image once, though folders may overlap.
        signs: by name, YARDSTICK, NOTHING and EVERYTHING among them; none without fakes or without reals.
    """

    fakes: dict[str, Withheld]
    reals: dict[str, Withheld]
    totals: dict[str, Withheld]
    signs: dict[str, Sign]

    @property
    def coverage(self) -> float | None:
        """The share of images that are judged, both labels weighing the same; None where one is missing."""
        shares = [part.coverage for part in self.totals.values()]
        known = [share for share in shares if share is not None]
        return sum(known) / 2 if len(known) == 2 else None

    @property
    def risk(self) -> float | None:
        """The share of wrong verdicts among those, weighed so; None where there are none, or a label is missing."""
        if not self.coverage:
            return None
        return sum((part.wrong - part.unsure_wrong) / part.images for part in self.totals.values()) / 2 / self.coverage

    def folders(self) -> Iterator[tuple[str, str | None, Withheld]]:
        """ "fakes" or "reals", and a folder, in their order; after each kind's last, None and its total."""
        for kind, parts in (("fakes", self.fakes), ("reals", self.reals)):
            for name, withheld in parts.items():
                yield kind, name, withheld
            yield kind, None, self.totals[kind]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict: `fakes`, `reals`, `totals` and `signs`, lists with a `name`; `coverage`
        and `risk`."""
        return {
            "coverage": self.coverage,
            "risk": self.risk,
            **{
                kind: [{"name": name, **asdict(part)} for name, part in parts.items()]
                for kind, parts in (("fakes", self.fakes), ("reals", self.reals), ("totals", self.totals))
            },
            "signs": [
                {"name": name, "aurc": sign.aurc, "gain": list(sign.gain), "curve": list(map(list, sign.curve))}
                for name, sign in self.signs.items()
            ],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Abstention:
        """The inverse of to_dict; coverage and risk follow from the rest and are not read."""
        fakes, reals, totals = (
            {
                part["name"]: Withheld(**{key: value for key, value in part.items() if key != "name"})
                for part in values[kind]
            }
            for kind in ("fakes", "reals", "totals")
        )
        signs = {
            sign["name"]: Sign(sign["aurc"], tuple(sign["gain"]), tuple((x, y) for x, y in sign.get("curve", ())))
            for sign in values["signs"]
        }
        return cls(fakes, reals, totals, signs)


def measure_abstention(
    model: Detector,
    collection: Collection,
    fakes: Mapping[str, Sequence[int]],
    reals: Mapping[str, Sequence[int]],
    scores: Mapping[Delivery, Mapping[int, float]],
    threshold: float,
    *,
    preprocessing: Preprocessing,
    seed: int = 0,
    verbose: bool = False,
) -> list[Abstention]:
    """Reads every image once more for each delivery, and asks what `npr detect` would doubt in it.

    The delivered picture is no file, so its JPEG compression is the strongest that is known: that of the file that it
    was, or of a step of the delivery.

    Args:
        model: the detector that the scores are of; it is not run.
        collection: the images.
        fakes, reals: folders, each as indices of images of the collection.
        scores: by delivery, of the images that could be read, by index. Deliveries that start with the steps of another
            deliver its result once more: what they change is a sign of doubt of that other.
        threshold: scores above it mean fake.
        preprocessing: treatment of the images that the scores rest on.
        seed: of what deliveries and resampling draw.
        verbose: show progress.

    Returns:
        One for each delivery.
    """
    limits = limits_of(model, preprocessing)
    llr = llr_of(model) if preprocessing == model.preprocessing else None
    readable = sorted(set.intersection(*(set(part) for part in scores.values())))
    labels = np.array([collection.samples[index].label for index in readable], dtype=np.int64)
    logits = {delivery: logits_of([part[index] for index in readable]) for delivery, part in scores.items()}
    results = []
    for delivery, score_of in scores.items():
        reasons: dict[int, tuple[str, ...]] = {}
        with Meter(f"doubts, {delivery}", len(readable), verbose=verbose) as meter:
            for index in readable:
                score = score_of[index]
                evidence = None if llr is None else float(llr(score))
                found = _reasons_of_file(collection, index, delivery, limits, seed)
                reasons[index] = found + _codes(reasons_of_score(score, threshold, evidence, limits))
                meter.advance(1)
        wrong = {
            index: (score_of[index] > threshold) != (label == FAKE)
            for index, label in zip(readable, labels.tolist(), strict=True)
        }
        signs = _signs(
            np.array([score_of[index] for index in readable]),
            threshold,
            [reasons[index] for index in readable],
            [logits[other] for other in scores if other.steps[: len(delivery.steps)] == delivery.steps],
            llr,
        )
        errors = np.array([wrong[index] for index in readable], dtype=bool)
        results.append(
            Abstention(
                {name: _withheld(indices, wrong, reasons) for name, indices in fakes.items()},
                {name: _withheld(indices, wrong, reasons) for name, indices in reals.items()},
                {
                    kind: _withheld(sorted({index for part in parts.values() for index in part}), wrong, reasons)
                    for kind, parts in (("fakes", fakes), ("reals", reals))
                },
                compare_signs(labels, errors, signs, seed) if len(set(labels.tolist())) == 2 else {},
            )
        )
    return results


def compare_signs(
    labels: NDArray[np.int64], errors: NDArray[np.bool_], signs: Mapping[str, NDArray[np.float64]], seed: int = 0
) -> dict[str, Sign]:
    """The areas of signs of doubt, and how much better than YARDSTICK each is.

    Args:
        labels: [N], 0 real, 1 fake, both of them there.
        errors: [N], whether the verdict is wrong.
        signs: each [N], larger for images that are doubted more; YARDSTICK among them.
        seed: of the draws.
    """
    signs = {**signs, NOTHING: np.zeros(len(errors)), EVERYTHING: errors.astype(np.float64)}
    weights, rng = balanced_weights(labels), np.random.default_rng(seed)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    areas: dict[str, list[float]] = {name: [] for name in signs}
    for _ in range(RESAMPLES):
        drawn = np.concatenate([rng.choice(group, len(group)) for group in groups])
        for name, doubts in signs.items():
            areas[name].append(_area(errors[drawn], doubts[drawn], weights[drawn]))
    yardstick = np.array(areas[YARDSTICK])
    gains = intervals({name: yardstick - np.array(found) for name, found in areas.items()})
    return {
        name: Sign(_area(errors, doubts, weights), gains[name], _points(errors, doubts, weights))
        for name, doubts in signs.items()
    }


def _area(errors: NDArray[np.bool_], doubts: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    area = aurc(errors, doubts, weights)
    assert area is not None
    return area


def _points(
    errors: NDArray[np.bool_], doubts: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[tuple[float, float], ...]:
    """Of the curve, rounded to six digits: they are for the eye, and more would only make files larger."""
    curve = risk_coverage(errors, doubts, weights)
    last = len(errors) - 1
    at = np.searchsorted(curve.coverage, np.arange(1, POINTS + 1) / POINTS).clip(max=last)
    return tuple(
        (round(float(curve.coverage[i]), 6), round(float(curve.risk[i]), 6)) for i in np.unique([*at.tolist(), last])
    )


def _signs(
    scores: NDArray[np.float64],
    threshold: float,
    reasons: Sequence[tuple[str, ...]],
    views: Sequence[NDArray[np.float64]],
    llr: Llr | None,
) -> dict[str, NDArray[np.float64]]:
    """Signs of doubt, each [N].

    Args:
        scores: [N] after this delivery.
        reasons: codes of each image.
        views: logits [N] after this delivery, and after those that deliver its result once more.
        llr: what the scores are worth as evidence; None where it is not known.
    """
    # In (0, 1], so that whole numbers can be put before it.
    offset = logits_of(scores) - logits_of([threshold])
    near = 1 / (1 + np.abs(offset))
    signs = {
        YARDSTICK: scores * (1 - scores),
        "distance to the threshold": near,
        # Where the threshold keeps false alarms rare, fakes are missed below it: a sign that says no more than that is
        # what one that costs more must beat as well.
        "distance to a logit 1 below the threshold": -np.abs(offset + 1),
    }
    if llr is not None:
        ratios = llr(scores)
        signs["likelihood ratio against the verdict"] = np.where(scores > threshold, -ratios, ratios)
    of_file = {code: np.array([code in found for found in reasons]) for code in REASONS if code != "score"}
    for code, has in of_file.items():
        if has.any():
            signs[f"{code}, then distance"] = has + near
    signs["any reason of the file, then distance"] = np.logical_or.reduce(list(of_file.values())) + near
    if len(views) > 1:
        called = np.array(views) > logits_of([threshold])
        signs["spread of the logit over re-deliveries"] = np.std(views, axis=0)
        signs["re-deliveries disagree, then distance"] = (called.any(axis=0) & ~called.all(axis=0)) + near
    return signs


def _reasons_of_file(
    collection: Collection, index: int, delivery: Delivery, limits: Limits, seed: int
) -> tuple[str, ...]:
    path = collection.samples[index].path
    image = delivery(decode(path), seeded_generator(seed, index))
    with open(path, "rb") as file:
        jpeg = _strongest(read_compression(file), delivery)
    return _codes(reasons_of_image(image, jpeg, limits))


def _strongest(own: Jpeg | None, delivery: Delivery) -> Jpeg | None:
    known = [own] if own is not None and own.quality is not None else []
    known += [Jpeg(step.quality, True, None, None, False) for step in delivery.steps if isinstance(step, JpegStep)]
    return min(known, key=lambda jpeg: jpeg.quality or 0, default=own)


def _codes(reasons: Iterable[Any]) -> tuple[str, ...]:
    return tuple(reason.code for reason in reasons)


def _withheld(indices: Iterable[int], wrong: Mapping[int, bool], reasons: Mapping[int, tuple[str, ...]]) -> Withheld:
    read = [index for index in indices if index in reasons]
    unsure = [index for index in read if reasons[index]]
    counts = Counter(code for index in unsure for code in reasons[index])
    return Withheld(
        len(read),
        sum(wrong[index] for index in read),
        len(unsure),
        sum(wrong[index] for index in unsure),
        {code: counts[code] for code in REASONS if counts[code]},
    )
