"""stem_backward_finish: the stem's gradients from the sums over the data; everything dense is algebra.

    inv = 1 / sqrt(var + eps),   s1 = inv (W . S - mean s0),   XD = inv (W M2 - mean M1)
    grad_beta = s0,   grad_gamma = s1,   grad_W = gamma inv (S - s0 M1 / N - s1 XD / N)

with W = weight * channel_scale, S and s0 from :mod:`.stem_backward_sums` and N, M1, M2 the patch moments. The terms with
1 / N come from the batch statistics' own dependence on W; without moments (frozen statistics) they vanish. Where the
batch is shared among ranks, the terms that are sums over the data are local and s0, s1 under 1 / N are global.

Cost: 64 C^2 multiply-adds an output channel, in float64. One program an output channel.

Source: Ioffe and Szegedy, 2015 (arXiv 1502.03167), Section 3, with the map replaced by its moments (docs).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton.fold import moments_times, scale_of, scaled_weight
from npr_kernels.backends.triton.products import rounded


@triton.jit
def _finish(
    sums_local, sums_global,  # float64 [O, K + 1]
    moments,  # int64 [1 + K + K^2] or None
    weight, stride_o, stride_c, stride_h, stride_w,  # [O, C, 3, 3]
    gamma,  # [O] or None
    mean, var,  # float64 [O]
    grad_weight, grad_gamma, grad_beta,
    SCALES: tl.constexpr,
    EPS: tl.constexpr,
    KP: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0)
    k = tl.arange(0, KP)
    K: tl.constexpr = 8 * len(SCALES)
    w = scaled_weight(weight, stride_o, stride_c, stride_h, stride_w, o, k, k < K, SCALES)
    centre, variance = tl.load(mean + o), tl.load(var + o)
    inverse = 1.0 / tl.sqrt(variance + tl.full((), EPS, tl.float64))
    slope = inverse
    if gamma is not None:
        slope *= tl.load(gamma + o).to(tl.float64)

    at = o.to(tl.int64) * (K + 1)
    grad_w = tl.load(sums_local + at + k, mask=k < K, other=0)
    s0 = tl.load(sums_local + at + K)
    s1 = inverse * (tl.sum(w * grad_w) - centre * s0)
    dtype = grad_weight.dtype.element_ty
    tl.store(grad_beta + o, rounded(s0, dtype))
    tl.store(grad_gamma + o, rounded(s1, dtype))

    if moments is not None:
        sparse = tl.load(sums_global + at + k, mask=k < K, other=0)
        s0 = tl.load(sums_global + at + K)
        s1 = inverse * (tl.sum(w * sparse) - centre * s0)
        count, first, product = moments_times(moments, w, k, K)
        rate = tl.where(count > 0, 1.0 / count, 0.0)
        grad_w -= rate * (s0 * first + s1 * inverse * (product - centre * first))

    channel, tap = k // 8, k % 8
    target = grad_weight + o.to(tl.int64) * (9 * len(SCALES)) + 9 * channel
    tl.store(target + tap + (tap >= 4).to(tl.int32), rounded(slope * grad_w * scale_of(channel, SCALES), dtype), mask=k < K)
    tl.store(target + 4, tl.zeros([KP], dtype), mask=(k < K) & (tap == 0))


def stem_backward_finish(
    sums_local: Tensor,  # float64 [O, K + 1]
    sums_global: Tensor,  # float64 [O, K + 1]
    moments: Tensor | None,  # int64 [1 + K + K * K]
    weight: Tensor,  # [O, C, 3, 3]
    bn_weight: Tensor | None,  # [O]
    mean: Tensor,  # float64 [O]
    var: Tensor,  # float64 [O]
    eps: float,
    channel_scale: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor]:  # [O, C, 3, 3], [O], [O] in the weight's dtype
    """The op ``npr::stem_backward_finish`` (npr_kernels/ops.py) in Triton."""
    outputs, channels = weight.shape[:2]
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    grad_gamma, grad_beta = weight.new_empty((outputs,)), weight.new_empty((outputs,))
    _finish[(outputs,)](
        sums_local.contiguous(), sums_global.contiguous(), moments, weight, *weight.stride(), bn_weight, mean, var,
        grad_weight, grad_gamma, grad_beta,
        SCALES=tuple(channel_scale), EPS=eps, KP=triton.next_power_of_2(8 * channels), num_warps=1,
    )  # fmt: skip
    return grad_weight, grad_gamma, grad_beta
