"""Measures a detector on generators: a row of metrics for each and their mean, as the papers report them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from detector.console import Meter
from detector.data import BadImage, Collection, ImageDataset, Preprocessing
from detector.evaluation.metrics import Metrics, compute_metrics
from detector.models import Detector
from detector.models.inference import score_stream

# What a mean over generators is taken of: every field of Metrics that is a fraction.
RATES = tuple(field.name for field in fields(Metrics) if field.name not in ("reals", "fakes"))


@dataclass(frozen=True)
class Scores:
    """One score for every readable image of a collection, in the collection's order."""

    labels: list[int]
    scores: list[float]
    generators: list[str]
    bad: list[BadImage]


@dataclass(frozen=True)
class Evaluation:
    """Metrics by generator, and the images that could not be read and do not count."""

    rows: dict[str, Metrics]
    bad: list[BadImage]

    @property
    def mean(self) -> dict[str, float | None]:
        """The unweighted mean of every rate over the generators that define it; None where none does."""
        means: dict[str, float | None] = {}
        for name in RATES:
            values = [value for row in self.rows.values() if (value := getattr(row, name)) is not None]
            means[name] = sum(values) / len(values) if values else None
        return means

    @property
    def undefined(self) -> list[str]:
        """A sentence for every generator of which some metric is undefined."""
        return [
            f"{name}: no {'reals' if row.reals == 0 else 'fakes'}, so average precision and AUC are undefined"
            for name, row in self.rows.items()
            if row.average_precision is None and row.images
        ] + [f"{name}: no readable image" for name, row in self.rows.items() if not row.images]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: `generators`, a list of rows; `mean`; `bad`, a list of paths and reasons. Fractions in 0..1."""
        return {
            "generators": [{"generator": name, "images": row.images, **asdict(row)} for name, row in self.rows.items()],
            "mean": self.mean,
            "bad": [{"path": str(image.path), "reason": image.reason} for image in self.bad],
        }


def evaluate(
    model: Detector,
    collection: Collection,
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 32,
    workers: int = 0,
    verbose: bool = False,
) -> Evaluation:
    """Scores every image of a collection and measures each generator.

    Args:
        model: the detector; in evaluation mode afterwards.
        collection: the images. Those that cannot be decoded are listed and do not count.
        preprocessing: treatment of the images, by default the model's own.
        batch_size: images of one size that are scored together.
        workers: processes that decode; results do not depend on their number.
        verbose: show progress.
    """
    result = score_collection(
        model, collection, preprocessing=preprocessing, batch_size=batch_size, workers=workers, verbose=verbose
    )
    rows = {}
    for name in collection.generators:
        members = [i for i, generator in enumerate(result.generators) if generator == name]
        rows[name] = compute_metrics([result.labels[i] for i in members], [result.scores[i] for i in members])
    return Evaluation(rows, result.bad)


def score_collection(
    model: Detector,
    collection: Collection,
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 32,
    workers: int = 0,
    verbose: bool = False,
) -> Scores:
    """The detector's score of every image; arguments as in :func:`evaluate`."""
    model.eval()
    dataset = ImageDataset(collection, preprocessing or model.preprocessing, training=False)
    # One item at a time: the images' sizes differ, score_stream puts the equal ones together.
    loader = DataLoader(dataset, batch_size=None, num_workers=workers, collate_fn=_unchanged)
    scores: dict[int, float] = {}
    bad: list[BadImage] = []

    def views() -> Iterator[tuple[int, Tensor]]:
        for item in loader:
            if isinstance(item, BadImage):
                bad.append(item)
                meter.advance(1)
            else:
                image, _, index = item
                yield index, image

    with Meter("evaluate", len(collection), verbose=verbose) as meter:
        for index, score in score_stream(model, views(), batch_size):
            scores[index] = score
            meter.advance(1)
    samples = collection.samples
    order = sorted(scores)
    return Scores(
        labels=[samples[i].label for i in order],
        scores=[scores[i] for i in order],
        generators=[samples[i].generator for i in order],
        bad=bad,
    )


def _unchanged(item: Any) -> Any:
    return item
