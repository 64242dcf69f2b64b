"""From local logits to an image's: their mean, or the mean of the largest, for traces that only a part of it shows.

The second after the top-K pooling of Li et al., "A Novel Local Focusing Mechanism for Deepfake Detection
Generalization" (LFM, arXiv 2508.17029), without their salience network and their regularisation. Free of state: the
classifier's weights are the same.
"""

from __future__ import annotations

import re
from fractions import Fraction

from torch import Tensor

_TOP = re.compile(r"top-(\d+(?:\.\d+)?)%")


def share_of(pooling: str) -> Fraction:
    """The share of the local logits, the largest, whose mean is the logit: of "mean" all, of "top-10%" a tenth.

    Raises:
        ValueError: the pooling is neither "mean" nor "top-K%" with 0 < K <= 100.
    """
    if pooling == "mean":
        return Fraction(1)
    found = _TOP.fullmatch(pooling) if isinstance(pooling, str) else None
    share = Fraction(found[1]) / 100 if found else Fraction(0)
    if not 0 < share <= 1:
        raise ValueError(f"pooling must be 'mean' or 'top-K%' with K above 0 and at most 100, got {pooling!r}")
    return share


def mean_of_largest(local_logits: Tensor, share: Fraction) -> Tensor:
    """[N, n] -> [N, 1], the mean of the ceil(share * n) largest. Counted exactly: a tenth of 30 is 3."""
    count = -(-share.numerator * local_logits.shape[1] // share.denominator)
    return local_logits.topk(count, dim=1).values.mean(dim=1, keepdim=True)
