"""Whether a fact tells the labels apart more than chance would: permutation tests, corrected for their number.

A test asks how often labels dealt out anew separate the values as well. It holds for any counts, ties and categories,
where approximations fail with few images of one label. It takes images to be exchangeable: where many come from one
camera or one photograph, there are fewer independent ones than counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from detector.evaluation.delong import auc_and_interval, midranks

PERMUTATIONS = 1999

FOLDS = 5

# A test ends early when so many permutations have done as well: then it is far from any verdict.
_ENOUGH = 20

Labels = NDArray[np.bool_]
"""[N], True for fakes."""


def permutation_p(
    statistic: Callable[[NDArray], float], labels: NDArray, rng: np.random.Generator, permutations: int = PERMUTATIONS
) -> float:
    """The share of orders of the labels in which the statistic is as large as in the given one.

    With the early end of Besag and Clifford, "Sequential Monte Carlo p-values", Biometrika 78, 1991; never below
    1 / (permutations + 1).

    Args:
        statistic: of labels as given, the larger the further from chance; float64 rounding is allowed for.
        labels: [N], permuted along its axis.
        rng: the only source of randomness.
    """
    least = statistic(labels) - 1e-9
    reached = 0
    for drawn in range(1, permutations + 1):
        reached += statistic(rng.permutation(labels)) >= least
        if reached == _ENOUGH:
            return reached / drawn
    return (reached + 1) / (permutations + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected so that the chance of any false one stays what each one's was.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
    """
    corrected = [0.0] * len(ps)
    largest = 0.0
    for done, index in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        largest = max(largest, min(1.0, (len(ps) - done) * ps[index]))
        corrected[index] = largest
    return corrected


class Ordered:
    """Numbers as what tells labels apart, by a threshold.

    Args:
        values: float64 [N], finite.
    """

    def __init__(self, values: NDArray[np.float64]) -> None:
        self._values = values
        ranks = midranks(values)
        self._centred = ranks - ranks.mean()

    def scores(self, labels: Labels) -> NDArray[np.float64]:
        """The values, turned so that fakes have the higher ones."""
        return self._values if self.fakes_higher(labels) else -self._values

    def fakes_higher(self, labels: Labels) -> bool:
        return bool(self._centred[labels].sum() >= 0)

    def statistic(self, labels: Labels) -> float:
        """|AUC - 1/2|, times the numbers of reals and fakes, which no order changes."""
        return abs(float(self._centred[labels].sum()))


class Categories:
    """Names as what tells labels apart, by how often each is a fake's.

    An image's score is the share of fakes among its category's images in the other folds, and images are compared
    within a fold. So a category is no use for having been seen once, and many categories are no better than few.

    Args:
        names: [N].
        rng: deals the images out to FOLDS folds.
    """

    def __init__(self, names: Sequence[str], rng: np.random.Generator) -> None:
        _, self._category, self._images = np.unique(names, return_inverse=True, return_counts=True)
        self.fold = rng.permutation(len(names)) % FOLDS

    def scores(self, labels: Labels) -> NDArray[np.float64]:
        """[N], 0..1, to be compared within folds. One image is added to each category, as fake as all images are."""
        fakes, images = self._elsewhere(labels), self._elsewhere(np.ones_like(labels))
        share = fakes.sum(axis=1, keepdims=True) / np.maximum(images.sum(axis=1, keepdims=True), 1)
        scores = (fakes + share) / (images + 1)
        return np.round(scores, 12)[self.fold, self._category]  # equal shares are equal, whichever counts they are of

    def statistic(self, labels: Labels) -> float:
        """Chi-squared of categories and labels, but for a factor and a term that no order changes.

        It depends on counts alone; the area of the scores would depend on the folds too, and one draw of them could
        make much of three images.
        """
        fakes = np.bincount(self._category[labels], minlength=len(self._images))
        return float((fakes**2 / self._images).sum())

    def _elsewhere(self, members: Labels) -> NDArray[np.float64]:
        """[FOLDS, categories], how many members each category has outside each fold."""
        shape = FOLDS, len(self._images)
        place = self.fold * shape[1] + self._category
        inside = np.bincount(place, members, shape[0] * shape[1]).reshape(shape)
        return inside.sum(axis=0) - inside


def separation(column: Ordered | Categories, labels: Labels) -> tuple[float, tuple[float, float]] | None:
    """AUC of a column, of numbers in the better direction, and its interval of 95 %; None without pairs to compare."""
    strata = column.fold if isinstance(column, Categories) else None
    return auc_and_interval(labels, column.scores(labels), strata)
