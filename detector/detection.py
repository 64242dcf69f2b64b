"""Verdicts on image files: which files are meant, and what the detector says of each."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from detector.data import Admit, ImageError, Preprocessing, decode, read_ahead
from detector.doubt import Limits, Reason, limits_of, reasons_of_image, reasons_of_score
from detector.evaluation import llr_of, threshold_of
from detector.facts import read_compression
from detector.files import sha256_of_stream
from detector.finding import find_paths
from detector.models import Detector
from detector.models.sampling import reading_stream
from detector.verdicts import INTERVAL_CONFIDENCE, THRESHOLD, UNSURE, verdict

MOST_HELD_BACK = 256
"""Results that wait for that of an image before them, which is then scored without waiting for others of its size."""


@dataclass(frozen=True)
class Content:
    """A file in memory.

    Attributes:
        name: takes the place of the path; nothing of that name is opened.
        data: the file's bytes.
    """

    name: str
    data: bytes


@dataclass(frozen=True)
class Detection:
    """What the detector says of one file, or why it says nothing.

    Attributes:
        path: as it was given or found.
        score: 0..1, above the threshold means generated; None with an error.
        width, height: of the file's image in pixels, upright; None with an error.
        error: why there is no score; None with one.
        threshold: what the verdict rests on.
        llr: what the score is worth as evidence: the log-likelihood ratio of "fake" over "real", to base 10, within the
            bounds of the calibration; None for detectors without one, and with an error.
        sha256: of the file's content, in hexadecimal; None with an error.
        reasons: why the verdict is withheld, none where it is not; None where nobody asked, and with an error.
        read, interval: how much of the image the score rests on, and where the whole image's lies, see
            :class:`detector.models.sampling.Reading`.
    """

    path: str
    score: float | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None
    threshold: float = THRESHOLD
    llr: float | None = None
    sha256: str | None = None
    reasons: tuple[Reason, ...] | None = None
    read: float = 1.0
    interval: tuple[float, float] | None = None

    @property
    def verdict(self) -> str | None:
        """ "unsure" where there are reasons, else "fake" for scores above the threshold, otherwise "real"; None with an
        error."""
        if self.score is None:
            return None
        return UNSURE if self.reasons else verdict(self.score, self.threshold)

    @property
    def exact(self) -> bool:
        """Whether the score is the whole image's, not an estimate of it."""
        return self.interval is None

    @property
    def remarks(self) -> list[str]:
        """Lines for people, beside score and verdict: each reason, and how much was read where that is not all."""
        lines = [f"unsure: {reason.text}" for reason in self.reasons or ()]
        if self.interval is not None:
            low, high = self.interval
            lines.append(f"read: {100 * self.read:.2g} %, which gives the whole a score of {low:.4f} to {high:.4f}")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: path and either score, verdict, width, height, threshold, llr where there is one, sha256, read,
        interval (around an exact score of no width), exact and reasons (a list of code and text) where they were asked
        for, or error."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        return {
            "path": self.path,
            "score": self.score,
            "verdict": self.verdict,
            "width": self.width,
            "height": self.height,
            "threshold": self.threshold,
            **({} if self.llr is None else {"llr": self.llr}),
            "sha256": self.sha256,
            "read": self.read,
            "interval": [self.score, self.score] if self.interval is None else list(self.interval),
            "exact": self.exact,
            **({} if self.reasons is None else {"reasons": [reason.to_dict() for reason in self.reasons]}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Detection:
        """The inverse of to_dict, of a dictionary that may hold more.

        Raises:
            ValueError: the values are no detection's.
        """
        known = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
        try:
            if "reasons" in known:
                known["reasons"] = tuple(Reason(**reason) for reason in known["reasons"])
            if "interval" in known:
                known["interval"] = None if values["exact"] else tuple(known["interval"])
            return cls(**known)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a damaged detection ({type(error).__name__}: {error})") from error


def find_files(arguments: Iterable[str]) -> Iterator[str | Detection]:
    """The files that a command's arguments mean, as :func:`detector.finding.find_paths` finds them.

    Yields:
        Paths; for an argument that means no file, a Detection with the error.
    """
    for path, error in find_paths(arguments):
        yield path if error is None else Detection(path, error=error)


def detect(
    model: Detector,
    files: Iterable[str | Content | Detection],
    *,
    preprocessing: Preprocessing | None = None,
    threshold: float | None = None,
    batch_size: int = 16,
    workers: int = 0,
    ordered: bool = True,
    unsure: bool = True,
    exact: bool = False,
    confidence: float = INTERVAL_CONFIDENCE,
) -> Generator[Detection, None, None]:
    """Scores image files.

    On the CPU each image is scored by itself, so that its score does not depend on the others, see
    :mod:`detector.models.inference`; on a GPU those of one size together. Those of more than a megapixel go in tiles,
    so that an image of 50 megapixels needs little more memory than its pixels; and where the score is a mean over the
    image, of no more windows than it takes to be certain of the verdict, and of whether the score is enough for it, see
    :mod:`detector.models.sampling`. What is estimated is the whole image's score, so thresholds and likelihood ratios
    that were learnt from whole images hold for it. Files are drawn, read and decoded a bounded number ahead, see
    :func:`detector.data.read_ahead`, so that a million of them take no more memory than some.

    Args:
        model: the detector; in evaluation mode afterwards.
        files: paths, files in memory, and Detections (of arguments that mean no file), which are passed on.
        preprocessing: treatment of the images, by default the model's own; with another one there is no likelihood
            ratio, because scores are then not those that it was learnt from.
        threshold: the score above which an image is called generated, by default the model's own.
        batch_size: on a GPU, images of one size that are scored together.
        workers: threads that read and decode; results do not depend on their number.
        ordered: yield in the order of the files; otherwise as results are there.
        unsure: withhold verdicts that the file or the score gives reason to doubt, see :mod:`detector.doubt`; scores do
            not depend on it.
        exact: read all of every image.
        confidence: otherwise, that the interval of an image that is read in part holds the whole image's score; in
            0..1, both ends excluded.

    Yields:
        One Detection a file. A file that cannot be decoded gives one with an error.
    """
    model.eval()
    preprocessing = preprocessing or model.preprocessing
    threshold = threshold_of(model) if threshold is None else threshold
    llr = llr_of(model) if preprocessing == model.preprocessing else None
    limits = limits_of(model, preprocessing)
    waiting: dict[int, Detection] = {}  # by position, until all before them are known
    decoded: dict[int, Detection] = {}  # by position, but for the score
    following = 0
    ended = False
    wanted = None if exact else confidence

    def load(file: str | Content | Detection, admit: Admit) -> tuple[Detection, Tensor | None]:
        if isinstance(file, Detection):
            return file, None
        name = _name_of(file)
        try:
            image, digest, reasons = _read(file, admit, limits if unsure else None)
        except ImageError as error:
            return Detection(name, error=error.reason), None
        _, height, width = image.shape
        detection = Detection(name, None, width, height, threshold=threshold, sha256=digest, reasons=reasons)
        return detection, preprocessing.test_view(image)

    def evidence_of(score: float) -> float | None:
        return None if llr is None else float(llr(score))

    def doubt_of(score: float) -> tuple[Reason, ...]:
        return reasons_of_score(score, threshold, evidence_of(score), limits)

    def outcome(score: float) -> tuple[str, bool]:
        # Doubted or not whether or not verdicts are withheld for it, so that scores do not depend on that.
        return verdict(score, threshold), bool(doubt_of(score))

    def views() -> Iterator[tuple[int, Tensor]]:
        """Until the files end, or until so many results wait that all that has begun is to be scored."""
        nonlocal ended
        for position, (_, (detection, view)) in numbered:
            if view is None:
                waiting[position] = detection
            else:
                decoded[position] = detection
                yield position, view
            if len(waiting) >= MOST_HELD_BACK:
                return
        ended = True

    def known() -> Iterator[Detection]:
        nonlocal following
        while waiting and (following in waiting or not ordered):
            yield waiting.pop(following if ordered else next(iter(waiting)))
            following += 1

    with closing(read_ahead(files, load, workers=workers, ordered=ordered)) as reading:
        numbered = enumerate(reading)
        while not ended:
            for position, result in reading_stream(model, views(), batch_size, outcome=outcome, confidence=wanted):
                found = replace(decoded.pop(position), **result._asdict(), llr=evidence_of(result.score))
                if found.reasons is not None:
                    found = replace(found, reasons=found.reasons + doubt_of(result.score))
                waiting[position] = found
                yield from known()
            yield from known()


def _name_of(file: str | Content) -> str:
    return file if isinstance(file, str) else file.name


def _read(file: str | Content, admit: Admit, limits: Limits | None) -> tuple[Tensor, str, tuple[Reason, ...] | None]:
    """A file's image, the SHA-256 of its content, and what in it is reason to doubt, where there are limits: of one
    opening, so that they belong together.

    Raises:
        ImageError: as :func:`detector.data.decode`.
    """
    try:
        with open(file, "rb") if isinstance(file, str) else io.BytesIO(file.data) as source:
            stream = source if source.seekable() else io.BytesIO(source.read())
            digest = sha256_of_stream(stream)
            stream.seek(0)
            image = decode(stream, admit=admit)
            if limits is None:
                return image, digest, None
            return image, digest, reasons_of_image(image, read_compression(stream), limits)
    except OSError as error:
        raise ImageError(_name_of(file), f"cannot be read ({error.strerror or error})") from error
