"""Weights as the convolution kernels read them: everything that scales the residual folded in, split into terms.

    W[o, k] = weight[o, k] channel_scale[c]                          conv(residual) = W d        (d: the integer residual)
    stem:     W[o, k] gamma[o] / sqrt(var[o] + eps),  shift = beta - mean gamma / sqrt(var + eps)
    training: mean = W M1 / N,  var = W M2 W^T / N - mean^2                      from the patch moments

All in float64. The result is ``terms`` [T, K', O'] with ``out = factor (terms[0] + terms[1])^T d + shift``: float16,
two terms (22 bits) or one, where factor[o] is a power of two that puts the largest weight of a channel in
[2^14, 2^15); or one float64 term, factor 1. K' and O' are padded with zeros.

Cost: 9 C O weights, and 64 C^2 operations a channel in training. One program an output channel.

Source of the statistics from moments: linearity of the convolution in its patch; see :mod:`.stem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton.products import rounded


@triton.jit
def scale_of(channel, SCALES: tl.constexpr):
    """float64 channel_scale of a tensor of channels; 0 beyond the last. Constants in the code: no copy to the device."""
    scale = tl.zeros(channel.shape, tl.float64)
    for c in tl.static_range(len(SCALES)):
        scale = tl.where(channel == c, tl.full(channel.shape, SCALES[c], tl.float64), scale)
    return scale


@triton.jit
def scaled_weight(weight, stride_o, stride_c, stride_h, stride_w, o, k, exists, SCALES: tl.constexpr):
    """float64 [K]: weight[o] times channel_scale in tap order; 0 where k does not exist."""
    channel, tap = k // 8, k % 8
    position = tap + (tap >= 4).to(tl.int32)
    offset = channel.to(tl.int64) * stride_c + (position // 3) * stride_h + (position % 3) * stride_w
    value = tl.load(weight + o.to(tl.int64) * stride_o + offset, mask=exists, other=0).to(tl.float64)
    return tl.where(exists, value * scale_of(channel, SCALES), 0.0)


@triton.jit
def moments_times(moments, w, k, K):
    """N, M1 and M2 w, in float64, from patch moments int64 [1 + K + K^2] and a vector w [K padded]."""
    count = tl.load(moments).to(tl.float64)
    first = tl.load(moments + 1 + k, mask=k < K, other=0).to(tl.float64)
    product = tl.zeros_like(w)
    ROWS: tl.constexpr = 16
    for start in range(0, K, ROWS):
        row = start + tl.arange(0, ROWS)
        at = moments + 1 + K + row[:, None].to(tl.int64) * K + k[None, :]
        second = tl.load(at, mask=(row < K)[:, None] & (k < K)[None, :], other=0)
        # w[row], brought to the other axis by sums of one non-zero element.
        w_row = tl.sum(tl.where(row[:, None] == k[None, :], w[None, :], 0.0), axis=1)
        product += tl.sum(w_row[:, None] * second.to(tl.float64), axis=0)
    return count, first, product


@triton.jit
def _fold(
    weight, stride_o, stride_c, stride_h, stride_w,  # [O, C, 3, 3]
    bias,  # [O] or None: the convolution's, or beta
    gamma,  # [O] or None
    moments,  # int64 [1 + K + K^2] or None
    mean, var,  # [O] or None: running statistics
    terms,  # [TERMS, ROWS, OP]
    factor, shift,  # [OP]
    mean_out, var_out,  # float64 [O]
    O,
    SCALES: tl.constexpr,
    EPS: tl.constexpr,
    STEM: tl.constexpr,
    TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    KP: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0)
    k = tl.arange(0, KP)
    K: tl.constexpr = 8 * len(SCALES)
    w = scaled_weight(weight, stride_o, stride_c, stride_h, stride_w, o, k, k < tl.where(o < O, K, 0), SCALES)
    offset = tl.full((), 0.0, tl.float64)
    if bias is not None:
        offset = tl.load(bias + o, mask=o < O, other=0).to(tl.float64)
    if STEM:
        if moments is not None:
            count, first, product = moments_times(moments, w, k, K)
            rate = tl.where(count > 0, 1.0 / count, 0.0)
            centre = tl.sum(w * first) * rate
            variance = tl.sum(w * product) * rate - centre * centre
            # Rounding may leave a constant image with a variance just below zero. NaN stays.
            variance = tl.where(variance < 0.0, 0.0, variance)
        else:
            centre = tl.load(mean + o, mask=o < O, other=0).to(tl.float64)
            variance = tl.load(var + o, mask=o < O, other=0).to(tl.float64)
        tl.store(mean_out + o, centre, mask=o < O)
        tl.store(var_out + o, variance, mask=o < O)
        slope = 1.0 / tl.sqrt(variance + tl.full((), EPS, tl.float64))
        if gamma is not None:
            slope *= tl.load(gamma + o, mask=o < O, other=0).to(tl.float64)
        w = tl.where(k < K, w * slope, 0.0)
        offset -= centre * slope

    OP = tl.num_programs(0)
    target = terms + k * OP + o
    if terms.dtype.element_ty == tl.float64:
        tl.store(target, w, mask=k < ROWS)
        tl.store(factor + o, 1.0)
    else:
        # The exponent of the largest finite weight, read from its float64 bits. Infinities stay what they are.
        magnitude = tl.where(tl.abs(w) < float("inf"), tl.abs(w), 0.0)
        exponent = ((tl.max(magnitude).to(tl.int64, bitcast=True) >> 52) - 1023).to(tl.int32)
        power = tl.minimum(tl.maximum(14 - exponent, -100), 100).to(tl.int64)
        w *= ((power + 1023) << 52).to(tl.float64, bitcast=True)
        high = rounded(w, tl.float16)
        tl.store(target, high, mask=k < ROWS)
        if TERMS == 2:
            rest = w - high.to(tl.float64)
            low = rounded(tl.where(tl.abs(rest) < float("inf"), rest, 0.0), tl.float16)
            tl.store(target + ROWS * OP, low, mask=k < ROWS)
        tl.store(factor + o, ((1023 - power) << 52).to(tl.float64, bitcast=True))
    tl.store(shift + o, offset)


class Folded(NamedTuple):
    """``out = factor * (terms.sum(0)^T d) + shift``, in the dtype of ``factor``."""

    terms: Tensor  # [TERMS, GROUPS * 8 * GROUP, OP], float16 or float64
    factor: Tensor  # [OP], float32 or float64
    shift: Tensor  # [OP], float32 or float64
    mean: Tensor  # float64 [O], or [0] without batch norm
    var: Tensor  # float64 [O], or [0] without batch norm


def channels_per_group(channels: int) -> int:
    """Channels that one tile of patches covers: 16 or 32 taps, the depths that tl.dot takes."""
    return 2 if channels <= 2 else 4


def block_of_outputs(outputs: int) -> int:
    """Output channels that one program covers."""
    return min(64, max(16, triton.next_power_of_2(outputs)))


def fold(
    weight: Tensor,  # [O, C, 3, 3]
    bias: Tensor | None,  # [O]
    channel_scale: Sequence[float],
    *,
    out_dtype: torch.dtype,
    fast: bool,
    batch_norm: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, float] | None = None,
) -> Folded:
    """Folds a weight; ``batch_norm`` is (gamma, moments, mean, var, eps) for the stem, with ``bias`` as its beta."""
    outputs, channels = weight.shape[:2]
    group = channels_per_group(channels)
    rows = triton.cdiv(channels, group) * 8 * group
    block = block_of_outputs(outputs)
    padded = triton.cdiv(outputs, block) * block
    double = out_dtype == torch.float64
    n_terms = 1 if double or fast else 2
    accumulator = torch.float64 if double else torch.float32
    terms = weight.new_empty((n_terms, rows, padded), dtype=torch.float64 if double else torch.float16)
    factor = weight.new_empty((padded,), dtype=accumulator)
    shift = torch.empty_like(factor)
    gamma, moments, mean, var, eps = batch_norm if batch_norm is not None else (None, None, None, None, 0.0)
    mean_out = weight.new_empty((outputs if batch_norm is not None else 0,), dtype=torch.float64)
    var_out = torch.empty_like(mean_out)
    _fold[(padded,)](
        weight, *weight.stride(), bias, gamma, moments, mean, var, terms, factor, shift, mean_out, var_out, outputs,
        SCALES=tuple(channel_scale), EPS=eps, STEM=batch_norm is not None, TERMS=n_terms, ROWS=rows,
        KP=triton.next_power_of_2(rows),
        num_warps=1,
    )  # fmt: skip
    return Folded(terms, factor, shift, mean_out, var_out)
