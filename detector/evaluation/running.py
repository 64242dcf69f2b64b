"""Metrics of scores that come in batches, by the calls that torchmetrics has: update, compute, reset."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from detector.evaluation.metrics import Metrics, check_scores, compute_metrics


class RunningMetrics:
    """Gathers scores and labels, batch by batch, and computes :func:`detector.evaluation.compute_metrics` of them all.

    Kept are 9 bytes an image: average precision and most other metrics are no means over batches.

    Example:
        >>> import torch
        >>> from detector.evaluation import RunningMetrics
        >>> metrics = RunningMetrics()
        >>> metrics.update(torch.tensor([0.1, 0.3]), torch.tensor([0, 1]))
        >>> metrics.update(torch.tensor([0.4, 0.9]), torch.tensor([0, 1]))
        >>> metrics.compute().auc
        0.75
        >>> metrics.reset()
        >>> metrics.compute().images
        0
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all batches."""
        self._labels: list[NDArray[np.bool_]] = []
        self._scores: list[NDArray[np.float64]] = []

    def update(self, scores: ArrayLike | Tensor, labels: ArrayLike | Tensor) -> None:
        """Adds a batch; in the order of torchmetrics, what was found before what is true.

        Args:
            scores: [N], in 0..1, higher means fake: of a detector's logits the sigmoid. Tensors may be on any device.
            labels: [N], 0 real, 1 fake.

        Raises:
            ValueError: as :func:`detector.evaluation.compute_metrics`; the batch is left out.
        """
        checked_labels, checked_scores = check_scores(_as_array(labels), _as_array(scores))
        self._labels.append(checked_labels)
        self._scores.append(checked_scores.copy())

    def compute(self) -> Metrics:
        """The metrics of all that was added since the last reset."""
        return compute_metrics(
            np.concatenate([np.empty(0, bool), *self._labels]), np.concatenate([np.empty(0), *self._scores])
        )


def _as_array(values: ArrayLike | Tensor) -> ArrayLike:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values
