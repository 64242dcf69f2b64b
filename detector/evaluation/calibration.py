"""Calibrates a detector: a threshold certified on reals, and what its scores are worth as evidence, learnt from fakes.

The images are the reference population: what is certified of the threshold holds for reals like these, and what a
likelihood ratio says holds for reals and fakes like these. So the result names them, counts them and holds a digest of
their files. Copies of one file count once, because a guarantee rests on images drawn independently.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL

from detector.data import REAL, BadImage, Collection, DataError, Preprocessing, Sample
from detector.evaluation.calibration_cost import logits_of
from detector.evaluation.calibration_llr import Llr, fit_llr
from detector.evaluation.calibration_measures import Measures, measure
from detector.evaluation.calibration_threshold import Certified, TooFewError, certified_thresholds, check_number
from detector.evaluation.pools import Pool, folder_name
from detector.evaluation.provenance import Provenance, provenance, simulation_note
from detector.evaluation.scoring import score_collection
from detector.evaluation.truth import Share
from detector.facts import read_compression
from detector.files import sha256_of
from detector.models import Detector
from detector.verdicts import ALPHA, CONFIDENCE

KIND = "calibration"

DOUBTFUL = 5
"""So many times the rate of reals that may be called fake may be doubted or called fake, where no fakes tell better."""

# Logits are kept to draw curves with; more digits would only make files larger.
_DIGITS = 6


@dataclass(frozen=True)
class JpegFiles:
    """How strongly the images were compressed that are JPEGs.

    Attributes:
        files: how many are.
        lowest, highest: of their qualities, 1..100, see :class:`detector.facts.jpeg.Jpeg`; None without any.
    """

    files: int
    lowest: int | None
    highest: int | None

    @classmethod
    def of(cls, paths: Iterable[Path]) -> JpegFiles:
        """Of image files, by their headers."""
        qualities = []
        for path in paths:
            with open(path, "rb") as file:
                jpeg = read_compression(file)
            if jpeg is not None and jpeg.quality is not None:
                qualities.append(jpeg.quality)
        return cls(len(qualities), min(qualities, default=None), max(qualities, default=None))


@dataclass(frozen=True)
class Reference:
    """Images of one label and one name, as a part of the reference population.

    Attributes:
        folders: names of the folders or patterns that they were found under.
        copies: files that were left out because another of these images has the same bytes.
        digest: SHA-256 of the images' own SHA-256 digests, in hexadecimal, sorted, each ended by a newline.
        share: of the images, how many are called fake at the calibration's threshold.
        jpeg: of reals; None of fakes, and in results of earlier releases.
    """

    folders: tuple[str, ...]
    copies: int
    digest: str
    share: Share
    jpeg: JpegFiles | None = None


class Doubtful(NamedTuple):
    """A rate of reals, and the threshold that is certified for it."""

    alpha: float
    threshold: float


@dataclass(frozen=True)
class Calibration:
    """What was found, on which images.

    Attributes:
        provenance: of the detector and of the images together.
        date: when, in UTC, ISO 8601.
        alpha: at most this share of reals of any group is called fake ...
        confidence: ... with this confidence.
        threshold: scores strictly above it mean fake; the largest of the groups' own.
        reals: by group.
        certified: each group's own threshold, and the bound that it gives: a group's rate at the common threshold,
            which is no lower, is at most that, with the confidence asked for.
        fakes: by source; empty where none were given.
        llr: None without fakes.
        measures: None without fakes.
        real_logits, fake_logits: ln(score / (1 - score)) by group and by source, sorted, rounded to six digits.
        bad: images that could not be read and do not count.
        doubtful: a lower threshold, certified like the other for DOUBTFUL times its rate, and that rate: without a
            likelihood ratio, a score between the two is neither real nor fake. None in results of earlier releases.
    """

    provenance: Provenance
    date: str
    alpha: float
    confidence: float
    threshold: float
    reals: dict[str, Reference]
    certified: dict[str, Certified]
    fakes: dict[str, Reference] = field(default_factory=dict)
    llr: Llr | None = None
    measures: Measures | None = None
    real_logits: dict[str, list[float]] = field(default_factory=dict)
    fake_logits: dict[str, list[float]] = field(default_factory=dict)
    bad: list[BadImage] = field(default_factory=list)
    doubtful: Doubtful | None = None

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, JSON-able; fractions in 0..1.

        `date`, `alpha`, `confidence`, `threshold`; `doubtful`, its `alpha` and `threshold`, or null; `reals` and
        `fakes`, lists of groups and sources with their `folders`, `images`, `copies`, `digest`, `called_fake`, `rate`
        and `interval`, and for reals their own `threshold`, its `rank` and `bound`, and `jpeg` (`files`, `lowest`,
        `highest`), or null; `llr`, see :class:`detector.evaluation.calibration_llr.Llr`, or null;
        `versions`.
        """
        return {
            "date": self.date,
            "alpha": self.alpha,
            "confidence": self.confidence,
            "threshold": self.threshold,
            "doubtful": None if self.doubtful is None else self.doubtful._asdict(),
            "reals": [
                {
                    "group": name,
                    **_reference_to_dict(part),
                    "threshold": self.certified[name].threshold,
                    "rank": self.certified[name].rank,
                    "called_fake_at_own_threshold": self.certified[name].called,
                    "bound": self.certified[name].bound,
                    "jpeg": None if part.jpeg is None else asdict(part.jpeg),
                }
                for name, part in self.reals.items()
            ],
            "fakes": [{"source": name, **_reference_to_dict(part)} for name, part in self.fakes.items()],
            "llr": None if self.llr is None else self.llr.to_dict(),
            "versions": self.provenance.versions,
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of from_dict; fractions in 0..1.

        `kind` "calibration"; the provenance's fields; the record's; `measures`, or null; `real_logits`, `fake_logits`;
        `bad`, a list of paths and reasons.
        """
        return {
            "kind": KIND,
            **self.provenance.to_dict(),
            **self.record(),
            "measures": None if self.measures is None else self.measures.to_dict(),
            "real_logits": self.real_logits,
            "fake_logits": self.fake_logits,
            "bad": [{"index": bad.index, "path": str(bad.path), "reason": bad.reason} for bad in self.bad],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """The inverse of to_dict.

        Raises:
            ValueError: the values are no such result's.
        """
        if values.get("kind") != KIND:
            raise ValueError(f"no calibration, its kind is {values.get('kind')!r}")
        try:
            return cls(
                Provenance.from_dict(values),
                values["date"],
                values["alpha"],
                values["confidence"],
                values["threshold"],
                {part["group"]: _reference_from_dict(part) for part in values["reals"]},
                {
                    part["group"]: Certified(
                        part["threshold"],
                        part["images"],
                        part["rank"],
                        part["called_fake_at_own_threshold"],
                        part["bound"],
                    )
                    for part in values["reals"]
                },
                {part["source"]: _reference_from_dict(part) for part in values["fakes"]},
                None if values["llr"] is None else Llr.from_dict(values["llr"]),
                None if values["measures"] is None else Measures.from_dict(values["measures"]),
                values["real_logits"],
                values["fake_logits"],
                [BadImage(bad["index"], Path(bad["path"]), bad["reason"]) for bad in values["bad"]],
                None if values.get("doubtful") is None else Doubtful(**values["doubtful"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"a damaged calibration ({type(error).__name__}: {error})") from error


def calibrate(
    model: Detector,
    reals: Sequence[Pool],
    fakes: Sequence[Pool] = (),
    *,
    alpha: float = ALPHA,
    confidence: float = CONFIDENCE,
    method: str = "logistic",
    preprocessing: Preprocessing | None = None,
    batch_size: int = 32,
    workers: int = 0,
    name: str | None = None,
    weights: str = "",
    command: str = "",
    verbose: bool = False,
) -> Calibration:
    """Scores the images and calibrates; the model stays as it is.

    Args:
        model: the detector; in evaluation mode afterwards.
        reals: groups, each of reals of one history; the guarantee holds for each.
        fakes: sources; without them there is no likelihood ratio, and nothing is measured but the rates.
        alpha, confidence: see :func:`detector.evaluation.calibration_threshold.certified_threshold`.
        method: see :func:`detector.evaluation.calibration_llr.fit_llr`.
        preprocessing: treatment of the images, by default the model's own.
        batch_size: images of one size that are scored together.
        workers: threads that decode; results do not depend on their number.
        name: of the detector in tables, by default its class's.
        weights, command: where its weights come from, and what asked for this, for the record.
        verbose: show progress.

    Raises:
        TooFewError: a group has too few images to certify the rate; said before any is scored where that is known.
        DataError: a file is among reals and fakes, a source has no readable image, or no threshold below 1 will do.
        ValueError: an argument is out of range, or the likelihood ratio would fall with the score.
    """
    paths: dict[str, Path] = {}
    groups, sources = _parts(reals, paths), _parts(fakes, paths)
    _check_apart(groups, sources, paths)
    for group in groups:
        _check_number(group.name, len(group.keys), alpha, confidence)
    origin, score_of, bad = _score(
        model,
        paths,
        preprocessing=preprocessing or model.preprocessing,
        batch_size=batch_size,
        workers=workers,
        name=name,
        weights=weights,
        command=command,
        verbose=verbose,
    )
    for source in sources:
        if not source.scores(score_of):
            raise DataError(f"{source.name}: no image could be read")
    for group in groups:
        _check_number(group.name, len(group.scores(score_of)), alpha, confidence)
    threshold, certified = certified_thresholds(
        {group.name: group.scores(score_of) for group in groups}, alpha, confidence
    )
    if threshold >= 1:
        highest = max(certified, key=lambda name: certified[name].threshold)
        raise DataError(
            f"{highest}: too many reals have a score of 1, the highest there is, for any threshold to hold the rate"
        )
    threshold = max(threshold, math.ulp(0.0))  # above 0, so that something can be called real
    doubtful = min(DOUBTFUL * alpha, max(alpha, 0.5))
    lower, _ = certified_thresholds({group.name: group.scores(score_of) for group in groups}, doubtful, confidence)
    llr, measures = None, None
    if sources:
        every_real, every_fake = _scores_of_all(groups, score_of), _scores_of_all(sources, score_of)
        llr = fit_llr(every_real, every_fake, method)
        measures = measure(every_real, every_fake, llr)
    return Calibration(
        replace(
            origin,
            data=", ".join(folder for part in (*groups, *sources) for folder in part.folders),
            simulated="\n".join(dict.fromkeys(note for source in sources for note in source.notes)),
        ),
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        alpha,
        confidence,
        threshold,
        {
            group.name: replace(
                group.reference(score_of, threshold),
                jpeg=JpegFiles.of(paths[key] for key in group.keys if key in score_of),
            )
            for group in groups
        },
        certified,
        {source.name: source.reference(score_of, threshold) for source in sources},
        llr,
        measures,
        {group.name: _kept(group.scores(score_of)) for group in groups},
        {source.name: _kept(source.scores(score_of)) for source in sources},
        bad,
        Doubtful(doubtful, lower),
    )


@dataclass(frozen=True)
class _Part:
    """A group or a source: its distinct images, by the digest of their bytes.

    Attributes:
        name: of the pool.
        folders: names, without the folders that they lie in: these are nobody's business in a checkpoint.
        notes: what `npr synth` wrote of simulated generators into these folders.
        keys: of its images, each once.
        copies: files that are not among them because one with the same bytes is.
    """

    name: str
    folders: tuple[str, ...]
    notes: tuple[str, ...]
    keys: tuple[str, ...]
    copies: int

    def scores(self, score_of: Mapping[str, float]) -> list[float]:
        """Of the images that could be read."""
        return [score_of[key] for key in self.keys if key in score_of]

    def reference(self, score_of: Mapping[str, float], threshold: float) -> Reference:
        scores = self.scores(score_of)
        digests = sorted(key for key in self.keys if key in score_of)
        return Reference(
            self.folders,
            self.copies,
            hashlib.sha256("".join(f"{digest}\n" for digest in digests).encode()).hexdigest(),
            Share(sum(score > threshold for score in scores), len(scores)),
        )


def _parts(pools: Iterable[Pool], paths: dict[str, Path]) -> list[_Part]:
    """The pools, and under `paths` the first file of every distinct image."""
    parts = []
    for pool in pools:
        keys = [_key(path) for path in dict.fromkeys(pool.images)]
        for key, path in zip(keys, dict.fromkeys(pool.images), strict=True):
            paths.setdefault(key, path)
        distinct = tuple(dict.fromkeys(keys))
        folders = tuple(folder_name(os.path.abspath(item)) for item in pool.parts)
        notes = tuple(note for item in pool.parts if (note := _simulation_note(item)))
        parts.append(_Part(pool.name, folders, notes, distinct, len(keys) - len(distinct)))
    return parts


def _key(path: Path) -> str:
    """The digest of the file; of one that cannot be read, which decoding will say, its path."""
    try:
        return sha256_of(path)
    except OSError:
        return str(path)


def _check_apart(groups: Iterable[_Part], sources: Iterable[_Part], paths: Mapping[str, Path]) -> None:
    real = {key: group.name for group in groups for key in group.keys}
    for source in sources:
        for key in source.keys:
            if key in real:
                raise DataError(f"{paths[key]} is among the reals ({real[key]}) and among the fakes ({source.name})")


def _check_number(group: str, images: int, alpha: float, confidence: float) -> None:
    try:
        check_number(images, alpha, confidence)
    except TooFewError as error:
        raise TooFewError(f"{group}: {error}") from None


def _score(
    model: Detector,
    paths: Mapping[str, Path],
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int,
    name: str | None,
    weights: str,
    command: str,
    verbose: bool,
) -> tuple[Provenance, dict[str, float], list[BadImage]]:
    """Scores by key, and the images that have none."""
    # What label they have is of no matter for a score.
    samples = tuple(Sample(path, REAL, "", "") for path in paths.values())
    collection = Collection(Path(), "", None, samples)
    origin = provenance(model, collection, preprocessing, name=name, weights=weights, command=command)
    scores = score_collection(
        model,
        collection,
        preprocessing=preprocessing,
        batch_size=batch_size,
        workers=workers,
        verbose=verbose,
        task=f"calibrate {origin.detector}",
    )
    bad = {image.index for image in scores.bad}
    readable = (key for index, key in enumerate(paths) if index not in bad)
    score_of = dict(zip(readable, scores.scores, strict=True))
    versions = origin.versions | _decoder_versions()
    return replace(origin, images=len(paths), kinds={}, versions=versions), score_of, scores.bad


def _decoder_versions() -> dict[str, str]:
    """Of what turns files into pixels, on which scores depend."""
    return {"pillow": PIL.__version__}


def _simulation_note(item: str) -> str:
    return simulation_note(Collection(Path(item), "", None, ()))


def _scores_of_all(parts: Iterable[_Part], score_of: Mapping[str, float]) -> list[float]:
    """Each image once, though it be in several parts."""
    return [score_of[key] for key in dict.fromkeys(key for part in parts for key in part.keys) if key in score_of]


def _kept(scores: Sequence[float]) -> list[float]:
    return [float(f"{logit:.{_DIGITS}g}") for logit in np.sort(logits_of(scores))]


def _reference_to_dict(part: Reference) -> dict[str, Any]:
    return {
        "folders": list(part.folders),
        "copies": part.copies,
        "digest": part.digest,
        **part.share.to_dict("rate"),
    }


def _reference_from_dict(values: Mapping[str, Any]) -> Reference:
    jpeg = values.get("jpeg")
    return Reference(
        tuple(values["folders"]),
        values["copies"],
        values["digest"],
        Share.from_dict(values),
        None if jpeg is None else JpegFiles(**jpeg),
    )
