"""Scores of measurements in a file, as they come: a measurement that was ended in the middle goes on from it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from detector.data import Collection, ImageDataset, find_decoder
from detector.evaluation.provenance import weights_digest
from detector.journal import Journal, Line
from detector.models import Detector
from detector.signals import held_back
from npr_kernels import __version__

_Key = tuple[str, str, int, str]


class ScoreFile:
    """Scores by detector, treatment and image, a line of JSON each, see :class:`detector.journal.Journal`.

    Images are told by their path alone, and, where their treatment draws by their place in the collection, by that too.

    Args:
        path: of the file, made where there is none.
        detectors: those that are measured; lines of others are refused.

    Raises:
        ValueError: it holds something else, or scores of other detectors, decoders or versions.
        OSError: it cannot be read or written, or another process does.
    """

    def __init__(self, path: str | os.PathLike[str], detectors: Iterable[Detector]) -> None:
        digests = [weights_digest(detector) for detector in detectors]
        ours = " or ".join(digests)
        self._identity = {
            "decoder": str(find_decoder()),
            "versions": f"npr-kernels {__version__}, torch {torch.__version__}",
        }

        def settings(line: Line) -> dict[str, Any]:
            weights = line.get("weights")
            return {"model": ours if weights in digests else weights} | {
                name: line.get(name) for name in self._identity
            }

        self._journal = Journal(path, settings, {"model": ours} | self._identity)
        self._known: dict[_Key, float | str] = {}
        for line in self._journal.lines():
            self._known[_key(line)] = line["error"] if "error" in line else float(line["score"])

    def __enter__(self) -> ScoreFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._journal.close()

    def part(self, model: Detector, dataset: ImageDataset) -> Part:
        """Of the images of a data set, treated as it treats them, under one detector."""
        treatment = {"preprocessing": dataset.preprocessing.to_dict(), "transform": repr(dataset.transform)}
        digest = hashlib.sha256(json.dumps(treatment, sort_keys=True).encode()).hexdigest()[:16]
        return Part(self, weights_digest(model), digest, dataset.collection, dataset.transform is not None)

    def get(self, key: _Key) -> float | str | None:
        return self._known.get(key)

    def put(self, key: _Key, result: float | str) -> None:
        if key in self._known:  # an image that the collection holds twice
            return
        weights, treatment, index, path = key
        line: Line = {"path": path} | ({"error": result} if isinstance(result, str) else {"score": result})
        line |= {"weights": weights, "treatment": treatment} | ({} if index < 0 else {"index": index})
        with held_back():
            self._journal.append(line | self._identity)
        self._known[key] = result


@dataclass(frozen=True)
class Part:
    """What a ScoreFile holds of the images of one measurement.

    Attributes:
        file: the whole.
        weights, treatment: digests.
        collection: the images.
        placed: whether results depend on an image's place in the collection.
    """

    file: ScoreFile
    weights: str
    treatment: str
    collection: Collection
    placed: bool

    def get(self, index: int) -> float | str | None:
        """The score of an image, or why it has none; None where that is not known."""
        return self.file.get(self._key(index))

    def put(self, index: int, result: float | str) -> None:
        """Adds a score, or why there is none.

        Raises:
            OSError: the file cannot be written.
        """
        self.file.put(self._key(index), result)

    def _key(self, index: int) -> _Key:
        return self.weights, self.treatment, index if self.placed else -1, str(self.collection.samples[index].path)


def _key(line: Line) -> _Key:
    return line.get("weights", ""), line.get("treatment", ""), line.get("index", -1), line["path"]
