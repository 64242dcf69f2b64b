"""How far a result may be from the truth: bounds that follow from the arithmetic, not from experience."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_roundoff(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).eps / 2


def compute_dtype(out_dtype: torch.dtype) -> torch.dtype:
    """Dtype of the kernels' arithmetic for a dtype of their result."""
    return torch.float64 if out_dtype == torch.float64 else torch.float32


def dot_product_bound(
    truth: Tensor,  # float64
    magnitude: Tensor,  # float64, the same dot products of absolute values
    terms: int,
    out_dtype: torch.dtype,
) -> Tensor:
    """Largest error of a dot product with rounded factors, summed in any order, then rounded to the result's dtype.

    Higham, Accuracy and Stability of Numerical Algorithms, 3.1: |error| <= terms * u * sum |a b|, and one u more for
    each rounded factor and for the bias.
    """
    arithmetic = (terms + 2) * unit_roundoff(compute_dtype(out_dtype)) * magnitude
    rounding = unit_roundoff(out_dtype) * (truth.abs() + arithmetic) + torch.finfo(out_dtype).smallest_normal
    return arithmetic + rounding


def assert_within(result: Tensor, truth: Tensor, bound: Tensor) -> None:
    """Elementwise |result - truth| <= bound, or an infinity where the dtype's range may end; NaN anywhere fails."""
    error = (result.double() - truth).abs()
    beyond = result.isinf() & (result.sign() == truth.sign()) & (truth.abs() + bound > torch.finfo(result.dtype).max)
    bad = ~((error <= bound) | beyond)
    if bad.any():
        where = tuple(torch.nonzero(bad)[0].tolist())
        raise AssertionError(
            f"{int(bad.sum())} of {bad.numel()} elements are off, first at {where}: "
            f"got {result[where].item()!r}, want {truth[where].item()!r} +- {bound[where].item():.3g}"
        )


def assert_relative(result: Tensor, truth: Tensor, tolerance: float, usual: Tensor | None = None) -> None:
    """Largest error, relative to the largest magnitude of the truth.

    Args:
        usual: what magnitudes are like that are not small by chance; so few truths may all be. Of sums, the root of
            their terms' squares.
    """
    truth = truth.double()
    error = (result.double() - truth).abs().max().item() if truth.numel() else 0.0
    scale = max((t.abs().max().item() for t in (truth, usual) if t is not None and t.numel()), default=0.0)
    assert result.shape == truth.shape
    assert error <= tolerance * scale, f"relative error {error / max(scale, 1e-300):.3g}, allowed {tolerance:.3g}"
