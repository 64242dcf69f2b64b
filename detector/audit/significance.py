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
        _, category, counts = np.unique(names, return_inverse=True, return_counts=True)
        self.fold = rng.permutation(len(category)) % FOLDS
        # The other folds never have a category of one image: all such score alike.
        alone = len(counts)
        category = np.where(counts[category] == 1, alone, category)
        cells, self._cell = np.unique(category * FOLDS + self.fold, return_inverse=True)
        self._cell_fold = cells % FOLDS
        self._alone = cells // FOLDS == alone
        _, self._cell_category = np.unique(cells // FOLDS, return_inverse=True)
        self._images = np.bincount(self._cell)

    def scores(self, labels: Labels) -> NDArray[np.float64]:
        """[N], 0..1, to be compared within folds. One image is added to each category, as fake as all images are."""
        return self._cell_scores(self._fakes(labels))[self._cell]

    def statistic(self, labels: Labels) -> float:
        """The AUC of the scores, of pairs within folds; 1/2 without any."""
        fakes = self._fakes(labels)
        distinct, place = np.unique(self._cell_scores(fakes), return_inverse=True)
        place += len(distinct) * self._cell_fold
        shape = FOLDS, len(distinct)
        fakes = np.bincount(place, fakes, FOLDS * len(distinct)).reshape(shape)
        reals = np.bincount(place, self._images, FOLDS * len(distinct)).reshape(shape) - fakes
        pairs = (fakes.sum(axis=1) * reals.sum(axis=1)).sum()
        below = reals.cumsum(axis=1) - reals / 2
        return float((fakes * below).sum() / pairs) if pairs else 0.5

    def _fakes(self, labels: Labels) -> NDArray[np.intp]:
        """By cell, which is a category in a fold."""
        return np.bincount(self._cell[labels], minlength=len(self._images))

    def _cell_scores(self, fakes: NDArray[np.intp]) -> NDArray:
        seen_fakes, all_fakes = self._elsewhere(fakes)
        seen, all_images = self._elsewhere(self._images)
        share = all_fakes / np.maximum(all_images, 1)
        scores = np.where(self._alone, share, (seen_fakes + share) / (seen + 1))
        return np.round(scores, 12)  # equal shares are equal numbers, whichever counts they come from

    def _elsewhere(self, counts: NDArray[np.intp]) -> tuple[NDArray, NDArray]:
        """Of each cell, counts of its category and of all in the other folds."""
        of_category = np.bincount(self._cell_category, counts)
        of_fold = np.bincount(self._cell_fold, counts, FOLDS)
        return of_category[self._cell_category] - counts, of_fold.sum() - of_fold[self._cell_fold]


def separation(column: Ordered | Categories, labels: Labels) -> tuple[float, tuple[float, float]] | None:
    """AUC of a column, of numbers in the better direction, and its interval of 95 %; None without pairs to compare."""
    strata = column.fold if isinstance(column, Categories) else None
    return auc_and_interval(labels, column.scores(labels), strata)
