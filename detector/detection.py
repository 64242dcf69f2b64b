"""Verdicts on image files: which files are meant, and what the detector says of each."""

from __future__ import annotations

import glob
import io
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from detector.data import ImageError, Preprocessing, decode, list_images
from detector.evaluation import llr_of, threshold_of
from detector.files import sha256_of_stream
from detector.models import Detector
from detector.models.sampling import reading_stream
from detector.verdicts import INTERVAL_CONFIDENCE, THRESHOLD, verdict


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
    read: float = 1.0
    interval: tuple[float, float] | None = None

    @property
    def verdict(self) -> str | None:
        """ "fake" for scores above the threshold, otherwise "real"; None with an error."""
        return None if self.score is None else verdict(self.score, self.threshold)

    @property
    def exact(self) -> bool:
        """Whether the score is the whole image's, not an estimate of it."""
        return self.interval is None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: path and either score, verdict, width, height, threshold, llr where there is one, sha256, read,
        interval (around an exact score of no width) and exact, or error."""
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
        }


def find_files(arguments: Iterable[str]) -> Iterator[str | Detection]:
    """The files that a command's arguments mean, in their order.

    Args:
        arguments: files, of whatever name; folders, in which images are found by their extension, subfolders included;
            or patterns with `*`, `?`, `[...]` and `**`, for shells that leave them alone.

    Yields:
        Paths; for an argument that means no file, a Detection with the error.
    """
    for argument in arguments:
        if os.path.isdir(argument):
            try:
                files, _ = list_images(argument)
            except OSError as error:
                yield Detection(argument, error=f"cannot be read ({error.strerror})")
                continue
            yield from map(str, files)
            if not files:
                yield Detection(argument, error="is a folder without images")
        elif not os.path.lexists(argument) and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))
            yield from find_files(matches) if matches else [Detection(argument, error="matches no file")]
        else:
            yield argument


def detect(
    model: Detector,
    files: Iterable[str | Detection],
    *,
    preprocessing: Preprocessing | None = None,
    threshold: float | None = None,
    batch_size: int = 16,
    exact: bool = False,
    confidence: float = INTERVAL_CONFIDENCE,
) -> Iterator[Detection]:
    """Scores image files.

    On the CPU each image is scored by itself, so that its score does not depend on the others, see
    :mod:`detector.models.inference`; on a GPU those of one size together. Those of more than a megapixel go in tiles,
    so that an image of 50 megapixels needs little more memory than its pixels; and where the score is a mean over the
    image, of no more windows than the verdict takes, see :mod:`detector.models.sampling`. What is estimated is the
    whole image's score, so thresholds and likelihood ratios that were learnt from whole images hold for it.

    Args:
        model: the detector; in evaluation mode afterwards.
        files: paths, and Detections (of arguments that mean no file), which are passed on.
        preprocessing: treatment of the images, by default the model's own; with another one there is no likelihood
            ratio, because scores are then not those that it was learnt from.
        threshold: the score above which an image is called generated, by default the model's own.
        batch_size: on a GPU, images of one size that are scored together.
        exact: read all of every image.
        confidence: otherwise, that the interval of an image that is read in part holds the whole image's score; in
            0..1, both ends excluded.

    Yields:
        One Detection a file, in the order of the files. A file that cannot be decoded gives one with an error.
    """
    model.eval()
    preprocessing = preprocessing or model.preprocessing
    threshold = threshold_of(model) if threshold is None else threshold
    llr = llr_of(model) if preprocessing == model.preprocessing else None
    waiting: dict[int, Detection] = {}  # by position, until all before them are known
    decoded: dict[int, Detection] = {}  # by position, but for the score
    following = 0

    def views() -> Iterator[tuple[int, Tensor]]:
        for position, file in enumerate(files):
            if isinstance(file, Detection):
                waiting[position] = file
                continue
            try:
                image, digest = _read(file)
            except ImageError as error:
                waiting[position] = Detection(file, error=error.reason)
                continue
            _, height, width = image.shape
            decoded[position] = Detection(file, None, width, height, threshold=threshold, sha256=digest)
            yield position, preprocessing.test_view(image)

    wanted = None if exact else confidence
    for position, reading in reading_stream(model, views(), batch_size, threshold=threshold, confidence=wanted):
        evidence = None if llr is None else float(llr(reading.score))
        waiting[position] = replace(decoded.pop(position), **reading._asdict(), llr=evidence)
        while following in waiting:
            yield waiting.pop(following)
            following += 1
    for position in sorted(waiting):
        yield waiting.pop(position)


def _read(path: str) -> tuple[Tensor, str]:
    """A file's image and the SHA-256 of its content: of one opening, so that they belong together.

    Raises:
        ImageError: as :func:`detector.data.decode`.
    """
    try:
        with open(path, "rb") as file:
            stream = file if file.seekable() else io.BytesIO(file.read())
            digest = sha256_of_stream(stream)
            stream.seek(0)
            return decode(stream), digest
    except OSError as error:
        raise ImageError(path, f"cannot be read ({error.strerror or error})") from error
