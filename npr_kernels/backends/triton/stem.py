"""stem: conv2d, batch norm, ReLU and max-pooling in one pass; the convolution's map is never written.

    out[n, o, py, px] = relu(factor[o] max_{dy, dx} (W[o] . d[n, 2 py + dy, 2 px + dx]) + shift[o]),   dy, dx in -1..1

Batch norm's scale is folded into W before the maximum (it may be negative) and its shift is added after
(:mod:`.fold`): max(v) + b = max(v + b). In training its statistics come from the patch moments, and ``code`` keeps
where the maximum was: position 0..8 in the window, the first of equals, or 9 where the ReLU is closed.

What is compared for the backward pass of 16-bit results are keys: the bits of a float32 sum that begins at the shift,
the last four of them replaced by 15 less its place, so that the larger integer is the larger sum's, and of equals the
first one's. Values that differ by less than 2^-19 of themselves may tie. ReLU makes one of all keys below 16. Sums are
finite: what is not comes in by the factor (:mod:`.fold`).

A tile is pooled positions side by side, of one image after the other, and walks down the convolution's rows. A pooled
position owns two columns of the convolution, 2 px and 2 px + 1, each a product on tensor cores in each row. The larger
of a window's three rows is kept in registers, and the last of them begins the next window. The column to the left
belongs to the position before: once a window is complete, one tile of values moves by a position (through shared
memory). A tile's first position has nobody to its left, and is there for its neighbour's sake.

Cost a pooled position: 16 C image bytes read, O values (and O bytes) written; 4 x 2 (terms) x K' O multiply-adds on
tensor cores, K' the columns of the patches (:mod:`.layout`); one part in 2 x _ROWS more for the row above each tile.

Source: Ioffe and Szegedy, 2015 (arXiv 1502.03167), for batch norm; folding and statistics from moments are the
project's (docs).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, layout, tuning
from npr_kernels.backends.triton.fold import block_of_outputs, fold
from npr_kernels.backends.triton.patches import patches, split_index
from npr_kernels.backends.triton.products import multiply, rounded

#: ``code`` where the ReLU is closed.
CLOSED = 9

_CLOSED = tl.constexpr(CLOSED)

#: The bits of a key that hold 15 less the place of a value in its window.
_PLACE = tl.constexpr(15)

#: Pooled rows of a tile.
_ROWS = 8


@triton.jit
def _convolved(
    image, y, x, here, stride_c, stride_h, stride_w, rows, cols,
    high_at, low_at, high, low, initial, place,
    C: tl.constexpr, RESIDUAL: tl.constexpr, OP: tl.constexpr, TERMS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The convolution's values [P, O] at row ``y`` and columns ``x`` [P]; -inf where ``here`` says that none are.

    With KEYS, as keys of a ``place`` in the window, and 0 where none are.
    """
    patch = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, 0, C, RESIDUAL)
    value = multiply(patch, high, low, initial, TERMS)
    for group in range(1, layout.groups(RESIDUAL, C)):
        patch = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C, RESIDUAL)
        at = group * layout.width(RESIDUAL, C) * OP
        value = multiply(patch, tl.load(high_at + at), tl.load(low_at + at), value, TERMS)
    if KEYS:
        return tl.where(here[:, None], (value.to(tl.int32, bitcast=True) & ~_PLACE) | (_PLACE - place), 0)
    else:
        return tl.where(here[:, None], value, float("-inf"))


@triton.jit
def _larger(best, place, value, value_place, SAVE: tl.constexpr, KEYS: tl.constexpr):
    """The larger value and its place; as in max_pool2d, the first place of equals, and NaN wins. Keys hold theirs."""
    if KEYS:
        return tl.maximum(best, value), place
    elif SAVE:
        wins = (value > best) | (value != value) | ((value == best) & (value_place < place))
        return tl.where(wins, value, best), tl.where(wins, value_place, place)
    else:
        return tl.maximum(best, value, propagate_nan=tl.PropagateNan.ALL), place


@triton.jit
def _stem(
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    terms, factor, shift,
    out, code,  # [N, pooled_rows, pooled_cols, O]
    N, rows, cols, pooled_rows, pooled_cols, outputs,
    down, tiles,  # tiles below one another, and in all
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    OP: tl.constexpr,
    TERMS: tl.constexpr,
    SAVE: tl.constexpr,
    KEYS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    WIDTH: tl.constexpr = layout.width(RESIDUAL, C)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    high_at = terms + tl.arange(0, WIDTH)[:, None] * OP + o[None, :]
    low_at = high_at + (TERMS - 1) * layout.groups(RESIDUAL, C) * WIDTH * OP
    high, low = tl.load(high_at), tl.load(low_at)
    first = tl.zeros([BLOCK_P, BLOCK_O], tl.int32)  # place of a window's first row
    initial = tl.zeros([BLOCK_P, BLOCK_O], factor.dtype.element_ty)
    if KEYS:
        initial += tl.load(shift + o)[None, :]
        nothing = first
    else:
        nothing = initial + float("-inf")
    position = tl.arange(0, BLOCK_P)
    before = tl.maximum(position - 1, 0)[:, None] + first

    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        start = tl.cast(tile // down, tl.int64) * (BLOCK_P - 1)
        n, px = split_index(start, pooled_cols, BLOCK_P)
        image = images + n * stride_n
        here = n < N
        right = here & (2 * px + 1 < cols)
        mask = tl.where(start == 0, here, here & (position > 0))
        to_the_left = (px > 0)[:, None]

        begin = (tile % down) * 2 * ROWS
        even, odd = nothing, nothing
        even_place, odd_place = first, first
        for y in range(tl.maximum(begin - 1, 0), tl.minimum(begin + 2 * ROWS, rows)):
            ys = y + tl.zeros_like(px)
            row = 3 * (1 + y % 2)
            value = _convolved(image, ys, 2 * px, here, stride_c, stride_h, stride_w, rows, cols,
                               high_at, low_at, high, low, initial, row + 1,
                               C, RESIDUAL, OP, TERMS, KEYS)  # fmt: skip
            value_right = _convolved(image, ys, 2 * px + 1, right, stride_c, stride_h, stride_w, rows, cols,
                                     high_at, low_at, high, low, initial, row + 2,
                                     C, RESIDUAL, OP, TERMS, KEYS)  # fmt: skip
            even, even_place = _larger(even, even_place, value, first + row, SAVE, KEYS)
            odd, odd_place = _larger(odd, odd_place, value_right, first + row, SAVE, KEYS)
            if KEYS:  # for the window below, whose first row this is
                value += 6
                value_right += 6
            last = tl.where(y % 2 == 1, True, y == rows - 1)  # of a window
            if tl.where(y >= begin, last, False):
                best, place = _larger(even, even_place + 1, odd, odd_place + 2, SAVE, KEYS)
                # Factor and shift are loaded for each row: held over the loop, they would cost registers.
                if KEYS:
                    best = tl.maximum(best, tl.where(to_the_left, tl.gather(odd, before, 0) + 2, 0))
                    closed = best <= _PLACE
                    place = _PLACE - (best & _PLACE)
                    result = best.to(tl.float32, bitcast=True) * tl.load(factor + o)[None, :]
                else:
                    left = tl.where(to_the_left, tl.gather(odd, before, 0), float("-inf"))
                    left_place = tl.gather(odd_place, before, 0) if SAVE else odd_place
                    best, place = _larger(best, place, left, left_place, SAVE, KEYS)
                    result = best * tl.load(factor + o)[None, :] + tl.load(shift + o)[None, :]
                    closed = result <= 0.0  # not NaN, which passes a ReLU
                at = ((n * pooled_rows + y // 2) * pooled_cols + px)[:, None] * outputs + o[None, :]
                stored = mask[:, None] & (o < outputs)[None, :]
                tl.store(out + at, rounded(tl.where(closed, 0.0, result), out.dtype.element_ty), mask=stored)
                if SAVE:
                    tl.store(code + at, tl.where(closed, _CLOSED, place).to(tl.uint8), mask=stored)
                even, odd, even_place, odd_place = value, value_right, first, first
            elif last:  # the row above the tile
                even, odd, even_place, odd_place = value, value_right, first, first


def stem(
    images: Tensor,  # uint8 [N, C, H, W]
    moments: Tensor | None,  # int64 [1 + K + K * K]
    weight: Tensor,  # [O, Q, 3, 3]
    bn_weight: Tensor | None,  # [O]
    bn_bias: Tensor | None,  # [O]
    mean: Tensor | None,  # [O]
    var: Tensor | None,  # [O]
    eps: float,
    channel_scale: Sequence[float],
    out_dtype: torch.dtype,
    save: bool,
    fast: bool,
    residual: str = "npr",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # out and code [N, O, Hp, Wp] channels_last, mean and var float64 [O]
    """The op ``npr::stem`` (npr_kernels/ops.py) in Triton."""
    n, channels, height, width = images.shape
    outputs, rows, cols = weight.shape[0], height // 2, width // 2
    pooled_rows, pooled_cols = (rows + 1) // 2, (cols + 1) // 2
    shape = (n, outputs, pooled_rows, pooled_cols)
    keys = save and out_dtype.itemsize == 2
    folded = fold(
        weight, bn_bias, channel_scale, residual=residual, out_dtype=out_dtype, fast=fast,
        batch_norm=(bn_weight, moments, mean, var, eps), finite=keys,
    )  # fmt: skip
    out = torch.empty(shape, dtype=out_dtype, device=images.device, memory_format=torch.channels_last)
    code = images.new_empty((0,))
    if save:
        code = torch.empty(shape, dtype=torch.uint8, device=images.device, memory_format=torch.channels_last)
    if out.numel() == 0:
        return out, code, folded.mean, folded.var
    most = block_of_outputs(outputs, out_dtype)

    def launch(config: tuning.Config) -> None:
        # Places take as many registers as values, and keys of 64 positions too many.
        block_o = min(most, 32) if save and not compat.INTERPRETED and not (keys and config.block <= 32) else most
        down = triton.cdiv(pooled_rows, _ROWS)
        tiles = down * max(1, triton.cdiv(n * pooled_cols - 1, config.block - 1))
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        _stem[(programs, triton.cdiv(outputs, block_o))](
            images, *images.stride(), *folded[:3], out, code,
            n, rows, cols, pooled_rows, pooled_cols, outputs, down, tiles,
            C=channels, RESIDUAL=residual, OP=folded.terms.shape[2], TERMS=folded.terms.shape[0],
            SAVE=save, KEYS=keys, ROWS=_ROWS, BLOCK_P=config.block, BLOCK_O=block_o,
            num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip

    kind = (residual, out_dtype, save, folded.terms.shape[0], channels, outputs, images.stride(3) == 1)
    configs = tuning.fitted(_configs(out_dtype), residual)
    tuning.run("stem", kind, out.numel() // outputs, images.device, configs, launch)
    return out, code, folded.mean, folded.var


def _configs(out_dtype: torch.dtype) -> tuple[tuning.Config, ...]:
    """For NPR. The first is the heuristic. Wide values need smaller tiles."""
    if out_dtype == torch.float64:
        return (tuning.FLOAT64_CONFIG,)
    return (
        tuning.Config(block=32, programs=4, num_warps=4),
        tuning.Config(block=64, programs=2, num_warps=8),
        tuning.Config(block=32, programs=2, num_warps=4),
        tuning.Config(block=64, programs=2, num_warps=4),
    )
