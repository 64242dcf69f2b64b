"""A detector's score of every image of a collection."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from detector.console import Meter
from detector.data import BadImage, Collection, ImageDataset, Preprocessing, Transform, read_ahead
from detector.evaluation.score_file import ScoreFile
from detector.models import Detector
from detector.models.inference import score_stream


@dataclass(frozen=True)
class Scores:
    """One score for every readable image of a collection, in the collection's order."""

    labels: list[int]
    scores: list[float]
    generators: list[str]
    categories: list[str]
    bad: list[BadImage]

    def of_generator(self, generator: str, category: str | None = None) -> tuple[list[int], list[float]]:
        """Labels and scores of one generator, or of one of its classes."""
        members = [
            i
            for i, names in enumerate(zip(self.generators, self.categories, strict=True))
            if names[0] == generator and category in (None, names[1])
        ]
        return [self.labels[i] for i in members], [self.scores[i] for i in members]


def score_collection(
    model: Detector,
    collection: Collection,
    *,
    preprocessing: Preprocessing | None = None,
    transform: Transform | None = None,
    batch_size: int = 32,
    workers: int = 0,
    resume: ScoreFile | None = None,
    verbose: bool = False,
    task: str = "evaluate",
) -> Scores:
    """Scores every image of a collection.

    Args:
        model: the detector; in evaluation mode afterwards.
        collection: the images. Those that cannot be decoded are listed and have no score.
        preprocessing: treatment of the images, by default the model's own.
        transform: what befalls each decoded image before that treatment, see :class:`detector.data.ImageDataset`.
        batch_size: on a GPU, images of one size that are scored together.
        workers: threads that decode; results do not depend on their number.
        resume: scores that are in it are taken from it, and the others added.
        verbose: show progress.
        task: what the progress is called.
    """
    model.eval()
    dataset = ImageDataset(collection, preprocessing or model.preprocessing, training=False, transform=transform)
    part = None if resume is None else resume.part(model, dataset)
    scores: dict[int, float] = {}
    bad: dict[int, BadImage] = {}
    left = []
    for index in range(len(dataset)):
        known = None if part is None else part.get(index)
        match known:
            case None:
                left.append(index)
            case str(reason):
                bad[index] = BadImage(index, collection.samples[index].path, reason)
            case float(score):
                scores[index] = score

    def views() -> Iterator[tuple[int, Tensor]]:
        for _, item in reading:
            if isinstance(item, BadImage):
                bad[item.index] = item
                done(item.index, item.reason)
            else:
                image, _, index = item
                yield index, image

    def done(index: int, result: float | str) -> None:
        if part is not None:
            part.put(index, result)
        meter.advance(1)

    with (
        Meter(task, len(dataset), done=len(dataset) - len(left), verbose=verbose) as meter,
        closing(read_ahead(left, dataset.load, workers=workers)) as reading,
    ):
        for index, score in score_stream(model, views(), batch_size):
            scores[index] = score
            done(index, score)
    samples = [collection.samples[i] for i in sorted(scores)]
    return Scores(
        labels=[sample.label for sample in samples],
        scores=[scores[i] for i in sorted(scores)],
        generators=[sample.generator for sample in samples],
        categories=[sample.category for sample in samples],
        bad=[bad[i] for i in sorted(bad)],
    )
