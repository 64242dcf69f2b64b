"""Whether a result is right: only then is its time one of the op.

The truth is eager mode in float32, on the same images and device. Results for each image are compared element by
element, relative to the largest one. Sums over the images are compared by their norms: rounding may have let a pooling
window take another maximum, which moves the whole of its gradient elsewhere, and of such windows there are few.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from detector.bench.works import Case, Work


def deviation(work: Work, case: Case, result: Any) -> float:
    """How far the result of call(0) is off, relative to the truth; NaN and infinity where it is not finite."""
    exact = Case("eager", case.layout, torch.float32, case.images[:1], case.residual)
    with exact.backend(), exact_float32():
        truth = as_list((work.truth or work.prepare)(exact)(0))
    results = as_list(result)
    if [r.shape for r in results] != [t.shape for t in truth]:
        return float("inf")
    return max(norm_of_error(r, t, work.sums) for r, t in zip(results, truth, strict=True))


def norm_of_error(result: Tensor, truth: Tensor, sums: bool) -> float:
    order = 2.0 if sums else float("inf")
    dtype = torch.float64 if sums else torch.float32
    result, truth = result.detach().to(dtype), truth.detach().to(dtype)
    error, scale = (float(torch.linalg.vector_norm(t, order)) for t in (result - truth, truth))
    return error / scale if scale else float("inf") if error else 0.0


def allowed(work: Work, case: Case) -> float:
    """The largest deviation of a right result, of a few times what rounding explains."""
    if not work.dtype.is_floating_point:
        return 0.0
    if work.op == "NPRDetector":  # whose logits are small beside what they are sums of; its stem has rows of its own
        return 0.5
    if not case.fused:  # in low precision, TF32 included, from the first step on
        return 0.3 if work.sums else 0.1
    fast = case.precision == "fast"
    own = (5e-2 if fast else 1e-2) if work.sums else (1e-3 if fast else 1e-4)
    return own + 2 * torch.finfo(work.dtype).eps


def as_list(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (list, tuple)) else [result]


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32, which convolutions on a GPU use by default."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
