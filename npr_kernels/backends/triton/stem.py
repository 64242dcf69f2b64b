"""stem: conv2d, batch norm, ReLU and max-pooling in one pass; the convolution's map is never written.

    out[n, o, py, px] = relu(factor[o] max_{dy, dx} (W[o] . d[n, 2 py + dy, 2 px + dx]) + shift[o]),   dy, dx in -1..1

Batch norm's scale is folded into W before the maximum (it may be negative) and its shift is added after
(:mod:`.fold`): max(v) + b = max(v + b). In training its statistics come from the patch moments, and ``code`` keeps
where the maximum was: position 0..8 in the window, the first of equals, or 9 where the ReLU is closed.

A tile is pooled positions; the nine places of their windows are nine products, and the maximum over them is taken in
the accumulators' registers. What neighbouring windows share is computed again (9 products where 4 would do), so that no
value moves between positions.

Cost a pooled output position: 16 C bytes read, O values (and O bytes) written; 9 x 2 (terms) x 8 C' O multiply-adds on
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

from npr_kernels.backends.triton import compat, tuning
from npr_kernels.backends.triton.fold import block_of_outputs, channels_per_group, fold
from npr_kernels.backends.triton.patches import patches, split_index
from npr_kernels.backends.triton.products import multiply, rounded

#: ``code`` where the ReLU is closed.
CLOSED = 9

_CLOSED = tl.constexpr(CLOSED)


@triton.jit
def _stem(
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    terms, factor, shift,
    out, code,  # [N, pooled_rows, pooled_cols, O]
    N, rows, cols, pooled_rows, pooled_cols, outputs,
    tiles,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    OP: tl.constexpr,
    TERMS: tl.constexpr,
    SAVE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    K: tl.constexpr = 8 * GROUP
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    high_at = terms + tl.arange(0, K)[:, None] * OP + o[None, :]
    low_at = high_at + (TERMS - 1) * tl.cdiv(C, GROUP) * K * OP
    high, low = tl.load(high_at), tl.load(low_at)
    zero = tl.zeros([BLOCK_P, BLOCK_O], factor.dtype.element_ty)

    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        start = tl.cast(tile, tl.int64) * BLOCK_P
        row, px = split_index(start, pooled_cols, BLOCK_P)
        n, py = row // pooled_rows, (row % pooled_rows).to(tl.int32)
        here = n < N
        image = images + n * stride_n

        best = zero + float("-inf")
        place = tl.zeros([BLOCK_P, BLOCK_O], tl.int32)
        for step in range(9):
            # A neighbour in the window stands in for what is outside the map, under its own place.
            y = tl.minimum(tl.maximum(2 * py + step // 3 - 1, 0), rows - 1)
            x = tl.minimum(tl.maximum(2 * px + step % 3 - 1, 0), cols - 1)
            patch = patches(image, y, x, here, stride_c, stride_h, stride_w, 0, C, GROUP)
            value = multiply(patch, high, low, zero, TERMS)
            for channel in range(GROUP, C, GROUP):
                patch = patches(image, y, x, here, stride_c, stride_h, stride_w, channel, C, GROUP)
                at = 8 * channel * OP
                value = multiply(patch, tl.load(high_at + at), tl.load(low_at + at), value, TERMS)
            # As max_pool2d: the first of equals stays, NaN wins.
            if SAVE:
                larger = (value > best) | (value != value)
                best = tl.where(larger, value, best)
                place = tl.where(larger, (3 * (y - 2 * py + 1) + x - 2 * px + 1)[:, None], place)
            else:
                best = tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL)

        # Loaded for each tile: held over the loop, they would cost registers.
        value = best * tl.load(factor + o)[None, :] + tl.load(shift + o)[None, :]
        closed = value <= 0.0  # not NaN, which passes a ReLU
        at = (start + tl.arange(0, BLOCK_P))[:, None] * outputs + o[None, :]
        mask = here[:, None] & (o < outputs)[None, :]
        tl.store(out + at, rounded(tl.where(closed, 0.0, value), out.dtype.element_ty), mask=mask)
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
    if save and not compat.INTERPRETED:
        block_o = min(block_o, 32)  # places take as many registers as values

    def launch(config: tuning.Config) -> None:
        tiles = triton.cdiv(out.numel() // outputs, config.block)
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        _stem[(programs, triton.cdiv(outputs, block_o))](
            images, *images.stride(), *folded[:3], out, code,
            n, rows, cols, pooled_rows, pooled_cols, outputs, tiles,
            C=channels, GROUP=channels_per_group(channels), OP=folded.terms.shape[2], TERMS=folded.terms.shape[0],
            SAVE=save, BLOCK_P=config.block, BLOCK_O=block_o, num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip

    kind = (out_dtype, save, folded.terms.shape[0], channels, outputs, images.stride(3) == 1)
    tuning.run("stem", kind, out.numel() // outputs, images.device, _configs(out_dtype), launch)
    return out, code, folded.mean, folded.var


def _configs(out_dtype: torch.dtype) -> tuple[tuning.Config, ...]:
    """The first is the heuristic. Wide values need smaller tiles."""
    if out_dtype == torch.float64:
        return (tuning.Config(block=64, programs=2, num_warps=4),)
    return (
        tuning.Config(block=128, programs=4, num_warps=4),
        tuning.Config(block=128, programs=2, num_warps=4),
        tuning.Config(block=256, programs=2, num_warps=8),
    )
