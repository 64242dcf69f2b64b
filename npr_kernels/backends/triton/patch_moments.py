"""patch_moments: the integer moments of all patches, from which batch norm's statistics follow.

    N = number of convolution outputs,    M1 = sum_p d_p,    M2 = sum_p d_p d_p^T         (d_p has K = 8 C entries)

M2 is a product [K, positions] x [positions, K] on tensor cores. It is exact: |d d'| <= 255^2, so 256 products stay
below 2^24, where float32 counts every integer; each tile of at most 256 positions is then added to int64 sums. The
programs' sums are added as integers, so the result does not depend on the order.

Cost an output position: 4 C bytes read; 64 C'^2 multiply-adds on tensor cores, C' = C rounded up to 2 or a multiple
of 4; building the patches bounds it. Workspace: programs x (1 + K + K^2) int64.

Source: the linearity of the convolution in its patch (docs); batch norm from moments is the project's.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, tuning
from npr_kernels.backends.triton.fold import channels_per_group
from npr_kernels.backends.triton.patches import patches, split_index


@triton.jit
def _partial_moments(
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    sums,  # int64 [programs, 1 + K + K^2]
    rows, cols, tiles_per_image, tiles,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Program axes 1 and 2 are the groups of channels that M2's rows and columns belong to."""
    tl.static_assert(BLOCK_P <= 256)  # more products may not be counted exactly
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    KG: tl.constexpr = 8 * GROUP
    K: tl.constexpr = 8 * C
    row_channel = 0 if C <= GROUP else tl.program_id(1) * GROUP
    column_channel = 0 if C <= GROUP else tl.program_id(2) * GROUP
    # The patches' sum is a product too, with a matrix of which one row is 1.
    ones = (tl.arange(0, 16)[:, None] + tl.zeros([1, BLOCK_P], tl.int32) == 0).to(tl.float16)
    count = tl.program_id(0).to(tl.int64) * 0
    first = tl.zeros([16, KG], tl.int64)
    second = tl.zeros([KG, KG], tl.int64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = (tile // tiles_per_image).to(tl.int64)
        start = (tile % tiles_per_image).to(tl.int64) * BLOCK_P
        plane = tl.cast(rows, tl.int64) * cols
        here = start + tl.arange(0, BLOCK_P) < plane
        y, x = split_index(start, cols, BLOCK_P)
        image = images + n * stride_n
        right = patches(image, y, x, here, stride_c, stride_h, stride_w, column_channel, C, GROUP)
        left = right
        if C > GROUP:
            left = patches(image, y, x, here, stride_c, stride_h, stride_w, row_channel, C, GROUP)
        second += tl.dot(tl.trans(left), right).to(tl.int64)
        first += tl.dot(ones, right).to(tl.int64)
        count += tl.minimum(plane - start, BLOCK_P)

    sums += tl.program_id(0).to(tl.int64) * (1 + K + K * K)
    row, column = 8 * row_channel + tl.arange(0, KG), 8 * column_channel + tl.arange(0, KG)
    at = sums + 1 + K + row[:, None].to(tl.int64) * K + column[None, :]
    tl.store(at, second, mask=(row < K)[:, None] & (column < K)[None, :])
    if row_channel == 0:
        tl.store(sums + 1 + column, tl.sum(first, axis=0), mask=column < K)
        if column_channel == 0:
            tl.store(sums, count)


def patch_moments(images: Tensor) -> Tensor:  # uint8 [N, C, H, W] -> int64 [1 + K + K * K]
    """The op ``npr::patch_moments`` (npr_kernels/ops.py) in Triton."""
    n, channels, height, width = images.shape
    rows, cols, taps = height // 2, width // 2, 8 * channels
    if n * rows * cols == 0:
        return images.new_zeros((1 + taps + taps * taps,), dtype=torch.int64)
    group = channels_per_group(channels)
    out = torch.empty(0)

    def launch(config: tuning.Config) -> None:
        nonlocal out
        tiles_per_image = triton.cdiv(rows * cols, config.block)
        tiles = n * tiles_per_image
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        sums = images.new_empty((programs, 1 + taps + taps * taps), dtype=torch.int64)
        groups = triton.cdiv(channels, group)
        _partial_moments[(programs, groups, groups)](
            images, *images.stride(), sums, rows, cols, tiles_per_image, tiles,
            C=channels, GROUP=group, BLOCK_P=config.block, num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip
        out = sums.sum(dim=0)

    tuning.run("patch_moments", (channels, images.stride(3) == 1), n * rows * cols, images.device, _CONFIGS, launch)
    return out


# The first is the heuristic.
_CONFIGS = (
    tuning.Config(block=128, programs=8, num_warps=4),
    tuning.Config(block=256, programs=4, num_warps=8),
    tuning.Config(block=256, programs=4, num_warps=4),
)
