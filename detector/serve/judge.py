"""What the service asks of a detector, as `npr detect` asks it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

from detector.data import Preprocessing, decode
from detector.detection import Content, Detection, detect
from detector.facts import Facts
from detector.models import Detector
from detector.serve.pictures import Picture, draw


@dataclass(frozen=True)
class Judge:
    """A detector with its settings.

    Attributes:
        model: in evaluation mode, as :meth:`detector.models.Detector.for_inference` gives it, which takes too long for
            every batch.
        preprocessing, threshold, unsure, exact, confidence, batch_size, workers: as of
            :func:`detector.detection.detect`.
        identity: what gives the scores, JSON-able: model and decoder before all.
        as_line: of a detection, and of the facts of its file where they are wanted, what `npr detect --json` says.
    """

    model: Detector
    preprocessing: Preprocessing
    threshold: float
    unsure: bool
    exact: bool
    confidence: float
    batch_size: int
    workers: int
    identity: dict[str, Any]
    as_line: Callable[[Detection, Facts | None], dict[str, Any]]

    def detect(self, files: Iterable[Content | Detection]) -> Generator[Detection, None, None]:
        """A Detection for each file, in their order."""
        return detect(
            self.model,
            files,
            preprocessing=self.preprocessing,
            threshold=self.threshold,
            batch_size=self.batch_size,
            workers=self.workers,
            unsure=self.unsure,
            exact=self.exact,
            confidence=self.confidence,
        )

    def draw(self, content: Content) -> list[Picture]:
        """The pictures that explain a file that has a score."""
        return draw(self.model, self.preprocessing.test_view(decode(content.data)))
