"""A large image's score from a sample of its windows: as many as it takes to be certain of what follows from it.

The logit is the mean of the image's local logits, so the mean over a sample of windows estimates it, and their spread
says how well. (What the whole image adds to it is computed, not estimated, see :meth:`detector.models.Detector.whole`.)
The image is divided into windows whose features are the uncut image's own (see :mod:`detector.models.inference`), and
these into STRATA contiguous blocks that cover it, so that sky and ground are both seen. Windows are read in rounds, as
many of each block, in an order that the image's size fixes. After a round the mean of the whole image lies, with the
wanted confidence, in

    m +- t s sqrt(sum_h W_h^2 (1 - r / N_h) / r),

where block h holds the share W_h of the image in N_h windows, of which r have been read; m is the sum of W_h times the
mean of what was read of the block; s is the standard deviation of all windows read about their common mean, at least
LEAST_SPREAD; and t is Student's quantile. This is the variance of a stratified mean of a finite population (Cochran,
Sampling Techniques, 3rd edition, 1977, Section 5.3), but with the spread between blocks left in s. That makes it too
large rather than too small, with one degree of freedom a window, where two windows a block would tell little of the
spread within it.

Reading ends with the first interval whose two ends have the same outcome, so that all between has. So that looking
often does not make errors likely, the intervals of all K rounds that there can be hold at once: each has the K-th part
of the allowed error (Bonferroni).

Windows are small, their cores as wide as their margins. Neighbours tell much the same: on 63 pictures of 4 to 24
megapixels the variance that a number of pixels leaves, those of margins counted, is least with cores of 32 to 64
pixels, 1.3 times as large with 128, and twice with 256. And of small windows there are many, which is what Student's
quantile asks for. What no sample can promise: a part of the image that is small and unlike all the rest may be missed,
and with it its share of the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from detector.models.detector import Detector
from detector.models.inference import (
    Key,
    Promise,
    Window,
    logit_stream,
    margin_of,
    read_window,
    start_logit,
    start_whole,
    window_of,
)
from detector.models.passes import Passes

STRATA = 16
"""Blocks of an image, about: what divides its sides well."""

FIRST = 2
"""Windows of each block in the first round: 32 in all, with which the intervals hold for skewed logits too."""

GROWTH = 1.5
"""From one round to the next, of the windows read."""

LEAST_SPREAD = 0.25
"""Standard deviation of the windows' logits that is assumed at least. Of photographs it is 0.3 to 1; but windows of
flat areas are all alike, and a drawing may show nothing else."""

MOST = 0.5
"""The share of an image's pixels that is read in windows at most, those of margins included; then the whole image is,
which an undecided one takes that much longer for. Images whose first round would be more are read whole at once."""


class Reading(NamedTuple):
    """An image's score, and what it rests on.

    Attributes:
        score: 0..1, of the whole image or estimated.
        read: pixels that went through the network, those of margins included, as a share of the image's; 1 for the
            whole image.
        interval: where the whole image's score lies with the wanted confidence, the ends in 0..1; None where it is
            `score` itself.
    """

    score: float
    read: float = 1.0
    interval: tuple[float, float] | None = None


def reading_stream(
    model: Detector,
    views: Iterable[tuple[Key, Tensor]],
    batch_size: int,
    *,
    outcome: Callable[[float], Hashable],
    confidence: float | None,
) -> Iterator[tuple[Key, Reading]]:
    """Scores images as they come, large ones from as many of their windows as it takes to be certain of the outcome.

    Args:
        model: in evaluation mode. One whose logit is no mean over positions, or whose features depend on the whole
            image, is given whole images.
        views: (key, uint8 [3, H, W]).
        batch_size: as :func:`detector.models.inference.score_stream`.
        outcome: what follows from a score, such as the verdict: the same of all scores between two of the same.
        confidence: that the interval holds the whole image's score, in 0..1, both ends excluded; None to read all of
            every image.

    Yields:
        (key, reading), in the order of :func:`detector.models.inference.score_stream`. An image that was read whole has
        the score that it has there, bit for bit. On the CPU a reading depends on nothing but the image and the
        arguments, bit for bit.

    Raises:
        ValueError: the confidence is out of range.
    """
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")

    def start(passes: Passes, model: Detector, image: Tensor) -> Promise[Tensor | Reading]:
        plan = None if confidence is None else plan_rounds(model, *image.shape[1:])
        if confidence is None or plan is None or not plan.rounds:
            return start_logit(passes, model, image)
        return Sample(passes, model, image, plan, outcome, confidence)

    for key, found in logit_stream(model, views, batch_size, start):
        yield key, found if isinstance(found, Reading) else Reading(_score(found))


class Plan(NamedTuple):
    """Which windows of an image are read, and when.

    Attributes:
        shares: of the image's pixels, by block.
        sizes: windows of each block.
        rounds: of each round the windows that are read in it, each with the number of its block; none for images that
            are read whole at once.
    """

    shares: list[float]
    sizes: list[int]
    rounds: list[list[tuple[int, Window]]]


def plan_rounds(model: Detector, height: int, width: int) -> Plan:
    """The plan for images of that size: a function of it alone, on every machine and with every version."""
    if model.pooling != "mean":
        return Plan([], [], [])
    rows, columns = (_cores(side, model.tile_alignment, margin_of(model)) for side in (height, width))
    down = min(max(1, round(math.sqrt(STRATA * len(rows) / len(columns)))), len(rows), STRATA)
    across = min(round(STRATA / down), len(columns))
    row_blocks, column_blocks = (
        np.arange(len(rows)) * down // len(rows),
        np.arange(len(columns)) * across // len(columns),
    )
    blocks = (row_blocks[:, None] * across + column_blocks).ravel()
    # Not a generator's permutations, which may change with numpy; the bits that they are made of do not.
    order = np.argsort(np.random.PCG64([height, width]).random_raw(blocks.size), kind="stable")
    queues = [order[blocks[order] == block] for block in range(down * across)]
    rounds: list[list[tuple[int, Window]]] = []
    done, wanted, left = 0, FIRST, MOST * height * width
    while True:
        found = []
        for block, queue in enumerate(queues):
            for i, j in zip(*np.divmod(queue[done:wanted], len(columns)), strict=True):
                found.append((block, window_of(model, (height, width), rows[i], columns[j])))
        left -= sum(window.pixels for _, window in found)
        if left < 0:
            break
        rounds.append(found)
        done, wanted = wanted, math.ceil(GROWTH * wanted)
    areas = np.bincount(blocks, np.outer(_widths(rows, height), _widths(columns, width)).ravel())
    return Plan((areas / areas.sum()).tolist(), [len(queue) for queue in queues], rounds)


def _cores(side: int, step: int, core: int) -> list[slice]:
    """A side divided into cores of about that width, as equal as multiples of a step can be; the last has the rest."""
    steps = max(1, side // step)
    count = max(1, round(steps * step / core))
    edges = [steps * i // count * step for i in range(count)] + [-(-side // step) * step]
    return [slice(start, stop) for start, stop in pairwise(edges)]


def _widths(cores: list[slice], side: int) -> list[int]:
    return [min(core.stop, side) - core.start for core in cores]


class Sample:
    """An image that is being read, round by round: a promise of its Reading.

    Args:
        passes: that the windows go through.
        model, image: as :func:`detector.models.inference.start_logit` has them.
        plan: of at least one round.
        outcome, confidence: as of :func:`reading_stream`.
    """

    def __init__(
        self,
        passes: Passes,
        model: Detector,
        image: Tensor,
        plan: Plan,
        outcome: Callable[[float], Hashable],
        confidence: float,
    ) -> None:
        self._passes, self._model, self._image = passes, model, image
        self._plan, self._outcome = plan, outcome
        self._error = (1 - confidence) / len(plan.rounds)
        self._read = 0
        self._whole = start_whole(passes, model, image)
        self._found: list[list[tuple[float, int]]] = [[] for _ in plan.sizes]  # by block: local logits' mean and number
        self._round = -1
        self._started: list[Future[tuple[float, int]]] = []
        self._start_round()

    def done(self) -> bool:
        """Whether a round has ended: the result is there then, unless it takes another round."""
        return all(future.done() for future in self._started)

    def result(self) -> Reading:
        """Reads on for as long as it takes."""
        while True:
            for (block, window), future in zip(self._plan.rounds[self._round], self._started, strict=True):
                self._found[block].append(future.result())
                self._read += window.pixels
            ends = torch.tensor(interval(self._plan, self._found, self._error), dtype=torch.float64)
            low, middle, high = (ends + self._whole.result()).sigmoid().tolist()
            if self._outcome(low) == self._outcome(high):
                height, width = self._image.shape[1:]
                return Reading(middle, self._read / (height * width), (low, high))
            if self._round + 1 == len(self._plan.rounds):
                return Reading(_score(start_logit(self._passes, self._model, self._image).result()))
            self._start_round()

    def _start_round(self) -> None:
        self._round += 1
        self._started = [
            self._passes.start(partial(_local_logit, self._model, self._image, window), window.pixels)
            for _, window in self._plan.rounds[self._round]
        ]


def interval(plan: Plan, found: list[list[tuple[float, int]]], error: float) -> tuple[float, float, float]:
    """Where the mean of all local logits lies.

    Args:
        plan: its shares and sizes.
        found: of each block, the windows read: the mean of their local logits and their number.
        error: the probability, at most, that the mean lies elsewhere; in 0..1, both ends excluded.

    Returns:
        The low end, the estimate and the high end.
    """
    mean = variance = 0.0
    for share, size, windows in zip(plan.shares, plan.sizes, found, strict=True):
        mean += share * sum(logit * count for logit, count in windows) / sum(count for _, count in windows)
        variance += share**2 * (1 - len(windows) / size) / len(windows)
    every = np.array([logit for windows in found for logit, _ in windows])
    spread = max(every.std(ddof=1), LEAST_SPREAD)
    width = student(1 - error / 2, len(every) - 1) * spread * math.sqrt(variance)
    return mean - width, mean, mean + width


def student(probability: float, freedom: int) -> float:
    """Student's quantile, to a thousandth from 15 degrees of freedom up and for probabilities up to 0.9999.

    By its expansion in powers of 1 / freedom (Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5).

    Args:
        probability: in 0..1, both ends excluded.
    """
    z = NormalDist().inv_cdf(probability)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def _local_logit(model: Detector, image: Tensor, window: Window) -> tuple[float, int]:
    """The mean of a window's local logits, and their number."""
    total, count = read_window(model, image, window)
    return model.classify((total / count).to(next(model.parameters()).dtype)).item(), count


def _score(logit: Tensor) -> float:
    return logit.sigmoid().item()
