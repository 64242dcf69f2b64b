"""Metrics of batches are those of all their images at once."""

import numpy as np
import pytest
import torch

from detector.evaluation import RunningMetrics, compute_metrics


def test_batches_are_as_one(rng):
    labels, scores = rng.integers(0, 2, 200), rng.random(200).round(2)
    metrics = RunningMetrics()
    metrics.update([0.5, 0.25], [1, 0])
    metrics.reset()
    cuts = np.sort(rng.integers(0, 201, 4))  # some batches may be empty
    for some_labels, some_scores in zip(np.split(labels, cuts), np.split(scores, cuts), strict=True):
        metrics.update(torch.from_numpy(some_scores).requires_grad_(), torch.from_numpy(some_labels))
    assert metrics.compute() == compute_metrics(labels, scores)
    metrics.update(scores, labels)
    assert metrics.compute() == compute_metrics(np.tile(labels, 2), np.tile(scores, 2))


def test_what_was_added_stays():
    metrics = RunningMetrics()
    scores, labels = np.array([0.75, 0.25]), np.array([True, False])
    metrics.update(scores, labels)
    scores[:], labels[:] = 0.5, True
    assert metrics.compute() == compute_metrics([1, 0], [0.75, 0.25])


def test_a_refused_batch_is_left_out():
    metrics = RunningMetrics()
    metrics.update([0.5, 0.25], [1, 0])
    before = metrics.compute()
    for scores, labels in (([1.5], [1]), ([0.5], [2]), ([0.5, 0.5], [1]), ([[0.5]], [[1]])):
        with pytest.raises(ValueError, match=r"labels|scores"):
            metrics.update(scores, labels)
    assert metrics.compute() == before


def test_without_images_nothing_is_defined():
    found = RunningMetrics().compute()
    assert found.images == 0
    assert found.accuracy is None
