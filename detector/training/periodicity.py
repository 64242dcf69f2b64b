"""Fits what the whole image says, :class:`detector.models.periodicity.Periodicity`, to a data set.

Logistic regression on the logarithms of coherences, both labels weighing the same, with a quadratic penalty on the
weights of the standardised logarithms. The problem is convex and small, so it is solved by Newton's method, in float64:
no learning rate, no order of images, and the same weights each time. What holds along rows holds along columns: every
image is there a second time, transposed.

All images are first cut to one size and then compressed at random, so that neither size nor history tells the label.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.console import Meter
from detector.data import Admit, Augmentation, BlurJpeg, Collection, DataError, ImageError, decode, read_ahead
from detector.data.dataset import seeded_generator
from detector.models.periodicity import Periodicity, measure, transposed
from detector.training.recipes import DELIVERIES

WINDOW = 192
"""Side of what is cut out of every image, at random."""

AUGMENTATION = BlurJpeg(jpeg_probability=0.6, jpeg_quality=(50, 98), jpeg_encoders=("pillow",))
"""What befalls the windows."""

PENALTY = 0.02
"""Half of it times the sum of squared weights is added to the mean cross-entropy. Of the coherences many tell the same;
this has all of them vote. From 0.001 to 0.1 little changes."""


def fit_periodicity(
    collection: Collection,
    *,
    seed: int,
    augmentation: Augmentation = AUGMENTATION,
    deliveries: int = DELIVERIES,
    verbose: bool = True,
) -> Periodicity:
    """The regression of a collection's labels on its images' coherences.

    Args:
        collection: images of both labels. Those that cannot be decoded are left out.
        seed: of windows and deliveries.
        augmentation: what befalls the windows.
        deliveries: of each image.
        verbose: show progress.

    Raises:
        DataError: not both labels have images.
    """
    found = list(_measurements(collection, augmentation, seed, deliveries, verbose))
    labels = torch.tensor([label for _, label in found], dtype=torch.float64)
    if not 0 < labels.sum() < len(labels):
        raise DataError("the periodicity of real and fake images is compared, and there are not both")
    measured = torch.stack([value for value, _ in found])
    measured = torch.cat([measured, transposed(measured)]).double()
    weight, bias = regress(measured.flatten(1), labels.repeat(2), PENALTY)
    model = Periodicity()
    with torch.no_grad():
        model.weight.copy_(weight.view(model.weight.shape))
        model.bias.copy_(bias)
    return model


def regress(values: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """Penalised logistic regression in which both labels weigh the same.

    Args:
        values: float64 [N, K]. The penalty is on the weights of their standardised columns.
        labels: float64 [N], 0 or 1, of both some.
        penalty: positive.

    Returns:
        Weights [K] and bias [], float64, on the values themselves.
    """
    mean, deviation = values.mean(dim=0), values.std(dim=0).clamp(min=1e-9)
    columns = F.pad((values - mean) / deviation, (0, 1), value=1.0)
    share = torch.where(labels == 1, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    ridge = torch.full((columns.shape[1],), penalty, dtype=torch.float64)
    ridge[-1] = 0
    solution = torch.zeros_like(ridge)

    def cost(at: Tensor) -> Tensor:
        logits = columns @ at
        return (share * (F.softplus(logits) - labels * logits)).sum() + 0.5 * (ridge * at.square()).sum()

    for _ in range(_STEPS):
        probability = (columns @ solution).sigmoid()
        gradient = columns.T @ (share * (probability - labels)) + ridge * solution
        curvature = (columns.T * (share * probability * (1 - probability))) @ columns + torch.diag(ridge)
        step = torch.linalg.solve(curvature, gradient)
        length, descent = 1.0, float(gradient @ step)
        while cost(solution - length * step) > cost(solution) - 1e-4 * length * descent and length > 1e-6:
            length /= 2
        solution = solution - length * step
        if descent < 1e-16:
            break
    weight = solution[:-1] / deviation
    return weight, solution[-1] - weight @ mean


_STEPS = 50


def _measurements(
    collection: Collection, augmentation: Augmentation, seed: int, deliveries: int, verbose: bool
) -> Iterator[tuple[Tensor, int]]:
    """Of every image and delivery what is measured, and its label, in a fixed order."""

    def load(item: tuple[int, int], admit: Admit) -> Tensor | None:
        delivery, index = item
        try:
            image = decode(collection.samples[index].path, admit=admit)
        except ImageError:
            return None
        with torch.inference_mode():
            window = _delivered(image, augmentation, seeded_generator(seed, delivery, index))
            return measure(window[None])[0]

    items = [(delivery, index) for delivery in range(deliveries) for index in range(len(collection))]
    reading = read_ahead(items, load, workers=torch.get_num_threads())
    with closing(reading), Meter("periodicity", len(items), verbose=verbose) as meter:
        for (_, index), result in reading:
            meter.advance(1)
            if result is not None:
                yield result, collection.samples[index].label


def _delivered(image: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """A window of the image that went through a random delivery."""
    height, width = (min(side, WINDOW) for side in image.shape[1:])
    top, left = (
        int(torch.randint(whole - side + 1, (), generator=generator))
        for whole, side in zip(image.shape[1:], (height, width), strict=True)
    )
    image = image[:, top : top + height, left : left + width]
    return augmentation.draw(generator, (height, width), WINDOW)(image, generator)
