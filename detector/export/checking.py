"""Whether an exported detector says of images what the model says of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from detector.data import ImageError, decode
from detector.detection import Detection
from detector.export.exported import Exported
from detector.models import Detector
from detector.models.inference import logits
from detector.verdicts import verdict

LOGIT_BOUND = 1e-4
"""By how much logits may differ: engines sum in other orders, in float32. See docs/export.md for what was measured."""


@dataclass(frozen=True)
class Difference:
    """Between engine and model on one file, or why there is none.

    Attributes:
        path: as it was given or found.
        logit, score: how far apart they are; 0 with an error.
        verdict: whether they call the image otherwise.
        error: why the file was not scored; None where it was.
    """

    path: str
    logit: float = 0.0
    score: float = 0.0
    verdict: bool = False
    error: str | None = None


def differences(model: Detector, exported: Exported, files: Iterable[str | Detection]) -> Iterator[Difference]:
    """Scores files with both, treated as the exported file says.

    Args:
        model: in evaluation mode, on any device.
        files: paths, and Detections (of arguments that mean no file), whose errors are passed on.

    Yields:
        One Difference a file, in the order of the files.
    """
    for file in files:
        if isinstance(file, Detection):
            yield Difference(file.path, error=file.error)
            continue
        try:
            image = exported.preprocessing.test_view(decode(file))[None]
        except ImageError as error:
            yield Difference(file, error=error.reason)
            continue
        wanted, got = logits(model, image), exported(image)
        score = wanted.sigmoid()
        words = [verdict(value.item(), exported.threshold) for value in (score, got.scores)]
        distance = (wanted - got.logits).abs().item(), (score - got.scores).abs().item()
        yield Difference(file, *distance, verdict=words[0] != words[1])


@dataclass(frozen=True)
class Agreement:
    """What comes of all files.

    Attributes:
        images: that were scored by both.
        logit, score: the largest differences; nan if one is.
        verdicts: how many differ.
        errors: of the files that were not scored, by path.
    """

    images: int
    logit: float
    score: float
    verdicts: int
    errors: dict[str, str]

    @classmethod
    def of(cls, found: Iterable[Difference]) -> Agreement:
        found = list(found)
        scored = [each for each in found if each.error is None]
        logit, score = (
            torch.tensor([getattr(each, name) for each in scored] or [0.0], dtype=torch.float64).max().item()
            for name in ("logit", "score")
        )
        errors = {each.path: each.error for each in found if each.error is not None}
        return cls(len(scored), logit, score, sum(each.verdict for each in scored), errors)

    @property
    def within_bounds(self) -> bool:
        """Whether no logits differ by more than LOGIT_BOUND."""
        return self.logit <= LOGIT_BOUND

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "images": self.images,
            "largest_difference": {"logit": self.logit, "score": self.score},
            "bound": {"logit": LOGIT_BOUND},
            "differing_verdicts": self.verdicts,
            "errors": self.errors,
        }
