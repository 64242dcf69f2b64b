"""patch_moments: the integer moments of all patches, from which batch norm's statistics follow.

    N = number of convolution outputs,    M1 = sum_p d_p,    M2 = sum_p d_p d_p^T         (d_p has K entries)

M2 is a product [K, positions] x [positions, K] on tensor cores. It is exact: float32 counts every integer up to 2^24,
which 256 products of differences up to 255 do not exceed, nor 64 of those up to 510; each tile of at most so many
positions is then added to int64 sums. The programs' sums are added as integers, so the result does not depend on the
order.

Cost an output position: 4 C bytes read; K'^2 multiply-adds on tensor cores, K' the columns of the patches
(:mod:`.layout`); building the patches bounds it. Workspace: programs x (1 + K + K^2) int64.

Source: the linearity of the convolution in its patch (docs); batch norm from moments is the project's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, layout, tuning
from npr_kernels.backends.triton.patches import patches, split_index


@triton.constexpr_function
def exact_positions(residual):
    """How many products of two differences float32 adds up without rounding."""
    return 2**24 // layout.largest(residual) ** 2


@triton.jit
def _partial_moments(
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    sums,  # int64 [programs, 1 + K + K^2]
    rows, cols, tiles_per_image, tiles,
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Program axes 1 and 2 are the groups of taps that M2's rows and columns belong to."""
    tl.static_assert(exact_positions(RESIDUAL) >= BLOCK_P)
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    WIDTH: tl.constexpr = layout.width(RESIDUAL, C)
    GROUPS: tl.constexpr = layout.groups(RESIDUAL, C)
    K: tl.constexpr = layout.length(RESIDUAL, C)
    row_group = 0 if GROUPS == 1 else tl.program_id(1)
    column_group = 0 if GROUPS == 1 else tl.program_id(2)
    # The patches' sum is a product too, with a matrix of which one row is 1.
    ones = (tl.arange(0, 16)[:, None] + tl.zeros([1, BLOCK_P], tl.int32) == 0).to(tl.float16)
    count = tl.program_id(0).to(tl.int64) * 0
    first = tl.zeros([16, WIDTH], tl.int64)
    second = tl.zeros([WIDTH, WIDTH], tl.int64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = (tile // tiles_per_image).to(tl.int64)
        start = (tile % tiles_per_image).to(tl.int64) * BLOCK_P
        plane = tl.cast(rows, tl.int64) * cols
        here = start + tl.arange(0, BLOCK_P) < plane
        y, x = split_index(start, cols, BLOCK_P)
        image = images + n * stride_n
        right = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, column_group, C, RESIDUAL)
        left = right
        if GROUPS > 1:
            left = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, row_group, C, RESIDUAL)
        second += tl.dot(tl.trans(left), right).to(tl.int64)
        first += tl.dot(ones, right).to(tl.int64)
        count += tl.minimum(plane - start, BLOCK_P)

    sums += tl.program_id(0).to(tl.int64) * (1 + K + K * K)
    row = layout.tap_of(row_group * WIDTH + tl.arange(0, WIDTH), RESIDUAL, C)
    column = layout.tap_of(column_group * WIDTH + tl.arange(0, WIDTH), RESIDUAL, C)
    at = sums + 1 + K + row[:, None].to(tl.int64) * K + column[None, :]
    tl.store(at, second, mask=(row >= 0)[:, None] & (column >= 0)[None, :])
    if row_group == 0:
        tl.store(sums + 1 + column, tl.sum(first, axis=0), mask=column >= 0)
        if column_group == 0:
            tl.store(sums, count)


def patch_moments(images: Tensor, residual: str = "npr") -> Tensor:  # uint8 [N, C, H, W] -> int64 [1 + K + K * K]
    """The op ``npr::patch_moments`` (npr_kernels/ops.py) in Triton."""
    n, channels, height, width = images.shape
    rows, cols, taps = height // 2, width // 2, layout.length(residual, channels)
    if n * rows * cols == 0:
        return images.new_zeros((1 + taps + taps * taps,), dtype=torch.int64)
    out = torch.empty(0)

    def launch(config: tuning.Config) -> None:
        nonlocal out
        tiles_per_image = triton.cdiv(rows * cols, config.block)
        tiles = n * tiles_per_image
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        sums = images.new_empty((programs, 1 + taps + taps * taps), dtype=torch.int64)
        groups = layout.groups(residual, channels)
        _partial_moments[(programs, groups, groups)](
            images, *images.stride(), sums, rows, cols, tiles_per_image, tiles,
            C=channels, RESIDUAL=residual, BLOCK_P=config.block, num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip
        out = sums.sum(dim=0)

    kind = (residual, channels, images.stride(3) == 1)
    tuning.run("patch_moments", kind, n * rows * cols, images.device, _configs(residual), launch)
    return out


def _configs(residual: str) -> tuple[tuning.Config, ...]:
    """The first is the heuristic."""
    configs = (
        tuning.Config(block=128, programs=8, num_warps=4),
        tuning.Config(block=256, programs=4, num_warps=8),
        tuning.Config(block=256, programs=4, num_warps=4),
    )
    return tuple(config._replace(block=min(config.block, exact_positions(residual))) for config in configs)
