"""Weights as the convolution kernels read them: everything that scales the residual folded in, split into terms.

    W[o, k] = weight[o, k] channel_scale[c]                          conv(residual) = W d  (d: the integer residual)
    stem:     W[o, k] gamma[o] / sqrt(var[o] + eps),  shift = beta - mean gamma / sqrt(var + eps)
    training: mean = W M1 / N,  var = W M2 W^T / N - mean^2                      from the patch moments

All in float64. The result is ``terms`` [T, K', O'] with ``out = factor (terms[0] + terms[1])^T d + shift``: float16,
two terms (22 bits) or one, where factor[o] is a power of two that puts the largest weight of a channel in
[2^14, 2^15); or one float64 term, factor 1. K' and O' are padded with zeros.

Cost: O Q 9 weights, and K^2 operations an output channel in training. One program an output channel.

Source of the statistics from moments: linearity of the convolution in its patch; see :mod:`.stem`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, layout
from npr_kernels.backends.triton.products import rounded


@triton.jit
def scale_of(channel, SCALES: tl.constexpr):
    """float64 channel_scale of a tensor of channels, 0 beyond the last: constants in the code, no copy needed."""
    scale = tl.zeros(channel.shape, tl.float64)
    for c in tl.static_range(len(SCALES)):
        scale = tl.where(channel == c, tl.full(channel.shape, SCALES[c], tl.float64), scale)
    return scale


@triton.jit
def scaled_weight(
    weight, stride_o, stride_c, stride_h, stride_w, o, k, outputs, RESIDUAL: tl.constexpr, SCALES: tl.constexpr
):  # fmt: skip
    """float64 [O, K]: weight[o] times channel_scale at taps k; 0 where o or k does not exist.

    A dead centre of the kernel meets only zeros, but zero times a NaN or an infinity is NaN, as in any convolution.
    """
    C: tl.constexpr = len(SCALES) // layout.maps(RESIDUAL)
    channel, position, dead = layout.place_of(k, RESIDUAL, C)
    exists = (o < outputs)[:, None] & ((k >= 0) & (k < layout.length(RESIDUAL, C)))[None, :]
    kernel = weight + o.to(tl.int64)[:, None] * stride_o + channel.to(tl.int64)[None, :] * stride_c
    at = (position // 3) * stride_h + (position % 3) * stride_w
    value = tl.load(kernel + at[None, :], mask=exists, other=0).to(tl.float64)
    centre = tl.load(kernel + stride_h + stride_w, mask=exists & dead[None, :], other=0).to(tl.float64)
    return tl.where(exists, value * scale_of(channel, SCALES)[None, :] + 0.0 * centre, 0.0)


@triton.jit
def moments_times_weight(
    moments, weight, stride_o, stride_c, stride_h, stride_w, o, k, outputs, RESIDUAL: tl.constexpr, SCALES: tl.constexpr
):  # fmt: skip
    """From patch moments int64 [1 + K + K^2]: 1 / N (0 for no patches), M1 and W M2 [O, ...] at taps k, in float64."""
    K: tl.constexpr = layout.length(RESIDUAL, len(SCALES) // layout.maps(RESIDUAL))
    count = tl.load(moments).to(tl.float64)
    exists = (k >= 0) & (k < K)
    first = tl.load(moments + 1 + k, mask=exists, other=0).to(tl.float64)
    product = tl.zeros([o.shape[0], k.shape[0]], tl.float64)
    for start in range(0, K, 8):
        row = start + tl.arange(0, 8)
        w = scaled_weight(weight, stride_o, stride_c, stride_h, stride_w, o, row, outputs, RESIDUAL, SCALES)
        at = moments + 1 + K + row[:, None].to(tl.int64) * K + k[None, :]
        second = tl.load(at, mask=(row < K)[:, None] & exists[None, :], other=0).to(tl.float64)
        product += tl.sum(w[:, :, None] * second[None, :, :], axis=1)
    return tl.where(count > 0, 1.0 / count, 0.0), first, product


@triton.jit
def _fold(
    weight, stride_o, stride_c, stride_h, stride_w,  # [O, Q, 3, 3]
    bias,  # [O] or None: the convolution's, or beta
    gamma,  # [O] or None
    moments,  # int64 [1 + K + K^2] or None
    mean, var,  # [O] or None: running statistics
    terms,  # [TERMS, ROWS, OP]
    factor, shift,  # [OP]
    mean_out, var_out,  # float64 [O]
    outputs,
    RESIDUAL: tl.constexpr,
    SCALES: tl.constexpr,
    EPS: tl.constexpr,
    STEM: tl.constexpr,
    FINITE: tl.constexpr,
    TERMS: tl.constexpr,
    ROWS: tl.constexpr,
    OP: tl.constexpr,
    KP: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    row = tl.arange(0, KP)
    k = layout.tap_of(row, RESIDUAL, len(SCALES) // layout.maps(RESIDUAL))
    exists = o < outputs
    w = scaled_weight(weight, stride_o, stride_c, stride_h, stride_w, o, k, outputs, RESIDUAL, SCALES)
    offset = tl.zeros([BLOCK_O], tl.float64)
    if bias is not None:
        offset = tl.load(bias + o, mask=exists, other=0).to(tl.float64)
    if STEM:
        if moments is not None:
            rate, first, product = moments_times_weight(
                moments, weight, stride_o, stride_c, stride_h, stride_w, o, k, outputs, RESIDUAL, SCALES
            )
            centre = tl.sum(w * first[None, :], axis=1) * rate
            variance = tl.sum(w * product, axis=1) * rate - centre * centre
            # Rounding may leave a constant image with a variance just below zero. NaN stays.
            variance = tl.where(variance < 0.0, 0.0, variance)
        else:
            centre = tl.load(mean + o, mask=exists, other=0).to(tl.float64)
            variance = tl.load(var + o, mask=exists, other=1).to(tl.float64)
        tl.store(mean_out + o, centre, mask=exists)
        tl.store(var_out + o, variance, mask=exists)
        slope = 1.0 / tl.sqrt(variance + tl.full([BLOCK_O], EPS, tl.float64))
        if gamma is not None:
            slope *= tl.load(gamma + o, mask=exists, other=0).to(tl.float64)
        w = tl.where(exists[:, None] & (k >= 0)[None, :], w * slope[:, None], 0.0)
        offset = tl.where(exists, offset - centre * slope, 0.0)

    beside = offset
    if FINITE:
        beside += tl.sum(0.0 * w, axis=1)  # NaN beside a weight that is not finite
        w = tl.where((tl.abs(beside) < float("inf"))[:, None], w, 0.0)
        offset = tl.where(tl.abs(beside) < float("inf"), offset, tl.where(beside < 0.0, -1.0, 1.0))

    target = terms + row[None, :] * OP + o[:, None]
    mask = (row < ROWS)[None, :] & (o < OP)[:, None]
    scale = tl.full([BLOCK_O], 1.0, tl.float64)
    if terms.dtype.element_ty == tl.float64:
        tl.store(target, w, mask=mask)
    else:
        # The exponent of the largest finite weight, read from its float64 bits. Infinities stay what they are.
        magnitude = tl.max(tl.where(tl.abs(w) < float("inf"), tl.abs(w), 0.0), axis=1)
        if FINITE:
            magnitude = tl.maximum(magnitude, tl.abs(offset) * 2.0**-100)
        exponent = ((magnitude.to(tl.int64, bitcast=True) >> 52) - 1023).to(tl.int32)
        power = tl.minimum(tl.maximum(14 - exponent, -126), 126).to(tl.int64)
        w *= ((1023 + power) << 52).to(tl.float64, bitcast=True)[:, None]
        scale = ((1023 - power) << 52).to(tl.float64, bitcast=True)
        if FINITE:
            offset *= ((1023 + power) << 52).to(tl.float64, bitcast=True)
            scale = tl.where((tl.abs(beside) < float("inf")) | (beside < 0.0), scale, beside)
        high = rounded(w, tl.float16)
        tl.store(target, high, mask=mask)
        if TERMS == 2:
            rest = w - high.to(tl.float64)
            low = rounded(tl.where(tl.abs(rest) < float("inf"), rest, 0.0), tl.float16)
            tl.store(target + ROWS * OP, low, mask=mask)
    tl.store(factor + o, scale, mask=o < OP)
    tl.store(shift + o, offset, mask=o < OP)


class Folded(NamedTuple):
    """``out = factor * (terms.sum(0)^T d) + shift``, in the dtype of ``factor``."""

    terms: Tensor  # [TERMS, groups * width, OP], float16 or float64
    factor: Tensor  # [OP], float32 or float64
    shift: Tensor  # [OP], float32 or float64
    mean: Tensor  # float64 [O], or [0] without batch norm
    var: Tensor  # float64 [O], or [0] without batch norm


def block_of_outputs(outputs: int, dtype: torch.dtype) -> int:
    """Output channels that one program covers; few in float64, whose products are held term by term."""
    largest = 16 if dtype == torch.float64 and not compat.INTERPRETED else 64
    return min(largest, max(16, int(triton.next_power_of_2(outputs))))


def fold(
    weight: Tensor,  # [O, Q, 3, 3]
    bias: Tensor | None,  # [O]
    channel_scale: Sequence[float],
    *,
    residual: str,
    out_dtype: torch.dtype,
    fast: bool,
    batch_norm: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, float] | None = None,
    finite: bool = False,
) -> Folded:
    """Folds a weight; ``batch_norm`` is (gamma, moments, mean, var, eps) for the stem, with ``bias`` as its beta.

    With ``finite``, ``out = factor (terms^T d + shift)``, and terms and shift are finite. A channel of which a weight
    or the shift is not has no terms then, and is NaN or infinite by its factor; one of minus infinity is negative.
    """
    outputs, channels = weight.shape[0], weight.shape[1] // layout.maps(residual)
    rows = layout.groups(residual, channels) * layout.width(residual, channels)
    block = block_of_outputs(outputs, out_dtype)
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
    vectors = (None if v is None else v.contiguous() for v in (bias, gamma, moments, mean, var))
    block_o = compat.OUTPUTS_PER_PROGRAM
    _fold[(triton.cdiv(padded, block_o),)](
        weight, *weight.stride(), *vectors, terms, factor, shift, mean_out, var_out, outputs,
        RESIDUAL=residual, SCALES=tuple(channel_scale), EPS=eps, STEM=batch_norm is not None, FINITE=finite,
        TERMS=n_terms, ROWS=rows, OP=padded, KP=triton.next_power_of_2(rows), BLOCK_O=block_o,
        num_warps=1, **compat.OPTIONS,
    )  # fmt: skip
    return Folded(terms, factor, shift, mean_out, var_out)
