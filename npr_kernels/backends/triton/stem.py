"""stem: conv2d, batch norm, ReLU and max-pooling in one pass; the convolution's map is never written.

    out[n, o, py, px] = relu(factor[o] max_{dy, dx} (W[o] . d[n, 2 py + dy, 2 px + dx]) + shift[o]),   dy, dx in -1..1

Batch norm's scale is folded into W before the maximum (it may be negative) and its shift is added after
(:mod:`.fold`): max(v) + b = max(v + b). In training its statistics come from the patch moments, and ``code`` keeps where
the maximum was: position 0..8 in the window, the first of equals, or 9 where the ReLU is closed.

A program walks down a strip of pooled columns, those of all images side by side. Convolution columns 2 px - 1, 2 px and
2 px + 1 are three products of the same tile, so a maximum over columns needs no exchange between positions; column
2 px - 1 is thereby computed twice, a lower cost than moving it. The row that two windows share is computed once and
carried.

Cost a pooled output position: 16 C bytes read, O values (and O bytes) written; 6 x 2 (terms) x 8 C' O multiply-adds on
tensor cores, C' = C rounded up to 2 or a multiple of 4.

Source: Ioffe and Szegedy, 2015 (arXiv 1502.03167), for batch norm; folding and statistics from moments are the
project's (docs).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import tuning
from npr_kernels.backends.triton.fold import block_of_outputs, channels_per_group, fold
from npr_kernels.backends.triton.patches import only_if, split_index, window_row
from npr_kernels.backends.triton.products import multiply

#: ``code`` where the ReLU is closed.
CLOSED = 9

_CLOSED = tl.constexpr(CLOSED)


@triton.jit
def _maximum(best, place, value, value_place, SAVE: tl.constexpr):
    """The larger, and where it was: the first of equals stays and NaN wins, as in max_pool2d."""
    if SAVE:
        larger = (value > best) | (value != value)
        return tl.where(larger, value, best), tl.where(larger, value_place, place)
    else:
        return tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL), place


@triton.jit
def _row_maximum(
    anchor, y, rows, stride_c, stride_h, stride_w, here, left, right, high_at, low_at, high, low, zero,
    OP: tl.constexpr, C: tl.constexpr, GROUP: tl.constexpr, TERMS: tl.constexpr, SAVE: tl.constexpr,
):  # fmt: skip
    """[P, O]: the maximum of convolution row ``y`` over the windows' columns, and which of the three it was.

    ``anchor`` points at row 0 of column 2 px. Columns and rows outside the map count as -inf.
    """
    here = only_if((y >= 0) & (y < rows), here)
    up = only_if(y > 0, here)
    pixel = anchor + 2 * y * stride_h
    a, b, c = window_row(pixel, stride_c, stride_h, stride_w, up, here, left, right, 0, C, GROUP)
    before = multiply(a, high, low, zero, TERMS)
    at = multiply(b, high, low, zero, TERMS)
    after = multiply(c, high, low, zero, TERMS)
    for channel in range(GROUP, C, GROUP):
        more_high, more_low = tl.load(high_at + 8 * channel * OP), tl.load(low_at + 8 * channel * OP)
        a, b, c = window_row(pixel, stride_c, stride_h, stride_w, up, here, left, right, channel, C, GROUP)
        before = multiply(a, more_high, more_low, before, TERMS)
        at = multiply(b, more_high, more_low, at, TERMS)
        after = multiply(c, more_high, more_low, after, TERMS)
    nothing = float("-inf")
    best = tl.where((here & left)[:, None], before, nothing)
    place = tl.zeros(best.shape, tl.int32)
    best, place = _maximum(best, place, tl.where(here[:, None], at, nothing), 1, SAVE)
    return _maximum(best, place, tl.where((here & right)[:, None], after, nothing), 2, SAVE)


@triton.jit
def _stem(
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    terms, factor, shift,
    out, code,  # [N, pooled_rows, pooled_cols, O]
    N, rows, cols, pooled_rows, pooled_cols, O,
    chunks,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    OP: tl.constexpr,
    TERMS: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_Y: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    K: tl.constexpr = 8 * GROUP
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    scale, offset = tl.load(factor + o), tl.load(shift + o)
    high_at = terms + tl.arange(0, K)[:, None] * OP + o[None, :]
    low_at = high_at + (TERMS - 1) * tl.cdiv(C, GROUP) * K * OP
    high, low = tl.load(high_at), tl.load(low_at)
    zero = tl.zeros([BLOCK_X, BLOCK_O], scale.dtype)

    strip, chunk = tl.program_id(0) // chunks, tl.program_id(0) % chunks
    n, px = split_index(strip.to(tl.int64) * BLOCK_X, pooled_cols, BLOCK_X)
    here = n < N
    left, right = px > 0, 2 * px + 1 < cols
    anchor = images + n * stride_n + 4 * px * stride_w
    plane = tl.cast(pooled_rows, tl.int64) * pooled_cols
    target = ((n * plane + px) * O)[:, None] + o[None, :]
    mask = here[:, None] & (o < O)[None, :]

    first = chunk * BLOCK_Y
    above, above_place = _row_maximum(
        anchor, tl.cast(2 * first - 1, tl.int64), rows, stride_c, stride_h, stride_w, here, left, right,
        high_at, low_at, high, low, zero, OP, C, GROUP, TERMS, SAVE,
    )  # fmt: skip
    for py in range(first, tl.minimum(first + BLOCK_Y, pooled_rows)):
        y = tl.cast(2 * py, tl.int64)
        best, place = above, above_place
        value, value_place = _row_maximum(
            anchor, y, rows, stride_c, stride_h, stride_w, here, left, right,
            high_at, low_at, high, low, zero, OP, C, GROUP, TERMS, SAVE,
        )  # fmt: skip
        best, place = _maximum(best, place, value, 3 + value_place, SAVE)
        above, above_place = _row_maximum(
            anchor, y + 1, rows, stride_c, stride_h, stride_w, here, left, right,
            high_at, low_at, high, low, zero, OP, C, GROUP, TERMS, SAVE,
        )  # fmt: skip
        best, place = _maximum(best, place, above, 6 + above_place, SAVE)
        value = best * scale[None, :] + offset[None, :]
        closed = value <= 0.0  # not NaN, which passes a ReLU
        at = target + tl.cast(py, tl.int64) * pooled_cols * O
        tl.store(out + at, tl.where(closed, 0.0, value).to(out.dtype.element_ty), mask=mask)
        if SAVE:
            tl.store(code + at, tl.where(closed, _CLOSED, place).to(tl.uint8), mask=mask)


def stem(
    images: Tensor,  # uint8 [N, C, H, W]
    moments: Tensor | None,  # int64 [1 + K + K * K]
    weight: Tensor,  # [O, C, 3, 3]
    bn_weight: Tensor | None,  # [O]
    bn_bias: Tensor | None,  # [O]
    mean: Tensor | None,  # [O]
    var: Tensor | None,  # [O]
    eps: float,
    channel_scale: Sequence[float],
    out_dtype: torch.dtype,
    save: bool,
    fast: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # out and code [N, O, Hp, Wp] channels_last, mean and var float64 [O]
    """The op ``npr::stem`` (npr_kernels/ops.py) in Triton."""
    n, channels, height, width = images.shape
    outputs, rows, cols = weight.shape[0], height // 2, width // 2
    pooled_rows, pooled_cols = (rows + 1) // 2, (cols + 1) // 2
    shape = (n, outputs, pooled_rows, pooled_cols)
    folded = fold(
        weight, bn_bias, channel_scale, out_dtype=out_dtype, fast=fast, batch_norm=(bn_weight, moments, mean, var, eps)
    )
    out = torch.empty(shape, dtype=out_dtype, device=images.device, memory_format=torch.channels_last)
    code = images.new_empty((0,))
    if save:
        code = torch.empty(shape, dtype=torch.uint8, device=images.device, memory_format=torch.channels_last)
    if out.numel() == 0:
        return out, code, folded.mean, folded.var
    block_o = block_of_outputs(outputs)

    def launch(config: tuning.Config) -> None:
        chunks = triton.cdiv(pooled_rows, config.programs)
        strips = triton.cdiv(n * pooled_cols, config.block)
        _stem[(strips * chunks, triton.cdiv(outputs, block_o))](
            images, *images.stride(), *folded[:3], out, code,
            n, rows, cols, pooled_rows, pooled_cols, outputs, chunks,
            C=channels, GROUP=channels_per_group(channels), OP=folded.terms.shape[2], TERMS=folded.terms.shape[0],
            SAVE=save, BLOCK_X=config.block, BLOCK_Y=config.programs, BLOCK_O=block_o, num_warps=config.num_warps,
        )  # fmt: skip

    kind = (out_dtype, save, folded.terms.shape[0], channels, outputs, images.stride(3) == 1)
    tuning.run("stem", kind, out.numel() // outputs, _CONFIGS, launch)
    return out, code, folded.mean, folded.var


# The first is the heuristic.
_CONFIGS = (
    tuning.Config(block=64, programs=16, num_warps=4),
    tuning.Config(block=64, programs=8, num_warps=4),
    tuning.Config(block=128, programs=16, num_warps=8),
    tuning.Config(block=128, programs=8, num_warps=4),
)
