"""Pool adjacent violators: the likelihood ratios that fit labels best among all that grow with the score.

Ayer et al., "An Empirical Distribution Function for Sampling with Incomplete Information", Annals of Mathematical
Statistics 26, 1955. Neighbouring scores are pooled until the share of fakes grows from block to block; a block's
likelihood ratio is its share of all fakes over its share of all reals. Weighing the labels otherwise moves all ratios
alike and changes no block, so that this is isotonic regression with both labels weighing one half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class Blocks(NamedTuple):
    """What pooling leaves, from low to high scores; each is [blocks].

    Attributes:
        lowest, highest: of the block's scores, float64.
        reals, fakes: how many are in it, int64.
        llrs: natural logarithms of the likelihood ratios, growing strictly; -inf in a first block without fakes,
            inf in a last one without reals.
    """

    lowest: NDArray[np.float64]
    highest: NDArray[np.float64]
    reals: NDArray[np.int64]
    fakes: NDArray[np.int64]
    llrs: NDArray[np.float64]


def pool_adjacent_violators(real_values: ArrayLike, fake_values: ArrayLike) -> Blocks:
    """The blocks of these scores, or of whatever grows with them, such as logits.

    Args:
        real_values, fake_values: [R] and [F], finite, at least one of each.

    Raises:
        ValueError: they are not.
    """
    values, reals, fakes = _count(real_values, fake_values)
    # A stack of blocks: reals, fakes, and the place of the last distinct value in it.
    stack: list[tuple[int, int, int]] = []
    for place, (real, fake) in enumerate(zip(reals.tolist(), fakes.tolist(), strict=True)):
        # Shares of fakes compared as products of counts: exact.
        while stack and stack[-1][1] * real >= fake * stack[-1][0]:
            before_real, before_fake, _ = stack.pop()
            real, fake = real + before_real, fake + before_fake
        stack.append((real, fake, place))
    counts = np.array(stack, dtype=np.int64)
    block_reals, block_fakes, last = counts.T
    first = np.concatenate([[0], last[:-1] + 1])
    with np.errstate(divide="ignore"):
        llrs = np.log(block_fakes / block_fakes.sum()) - np.log(block_reals / block_reals.sum())
    return Blocks(values[first], values[last], block_reals, block_fakes, llrs)


def _count(
    real_values: ArrayLike, fake_values: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The distinct values, growing, and how many reals and fakes have each."""
    groups = []
    for name, given in (("real_values", real_values), ("fake_values", fake_values)):
        group = np.asarray(given, dtype=np.float64)
        if group.ndim != 1 or not group.size:
            raise ValueError(f"{name} must be [N] with at least one value, got shape {list(group.shape)}")
        if not np.isfinite(group).all():
            raise ValueError(f"{name} must be finite, got {group[~np.isfinite(group)][0]}")
        groups.append(group)
    values = np.unique(np.concatenate(groups))
    reals, fakes = (np.bincount(np.searchsorted(values, group), minlength=len(values)) for group in groups)
    return values, reals, fakes
