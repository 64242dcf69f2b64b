"""conv2d: decode-normalise, residual and the first convolution in one pass.

    out[n, o, y, x] = factor[o] sum_k W[o, k] d[n, y, x, k] + shift[o],    K = 8 C, 9 C or 17 C by the residual

An implicit product [positions, K] x [K, O]. The patches d are exact integers, built in registers from the bytes
(:mod:`.patches`); the weights are two float16 terms (:mod:`.fold`), so the result is as accurate as float32 arithmetic.

Cost an output position: 4 C bytes read, O values written; 2 (terms) x K' O multiply-adds on tensor cores, K' the
columns of patches (:mod:`.layout`). Writing bounds it. Programs are resident: each folds its way through every
`programs`-th tile, so that the weights are fetched once a program.

Source: Tan et al., CVPR 2024, Section 3; the residual of bytes as exact integers and the splitting of the weights are
the project's (docs).
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


@triton.jit
def _conv2d(
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    terms, factor, shift,
    out, out_stride_n, out_stride_o, out_stride_q,  # [N, O, rows * cols]
    rows, cols, outputs,
    tiles_per_image, tiles,
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    OP: tl.constexpr,
    TERMS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    WIDTH: tl.constexpr = layout.width(RESIDUAL, C)
    GROUPS: tl.constexpr = layout.groups(RESIDUAL, C)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    high_at = terms + tl.arange(0, WIDTH)[:, None] * OP + o[None, :]
    low_at = high_at + (TERMS - 1) * GROUPS * WIDTH * OP
    high, low = tl.load(high_at), tl.load(low_at)

    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = (tile // tiles_per_image).to(tl.int64)
        start = (tile % tiles_per_image).to(tl.int64) * BLOCK_P
        q = start + tl.arange(0, BLOCK_P)
        here = q < tl.cast(rows, tl.int64) * cols
        y, x = split_index(start, cols, BLOCK_P)
        image = images + n * stride_n

        acc = tl.zeros([BLOCK_P, BLOCK_O], factor.dtype.element_ty)
        patch = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, 0, C, RESIDUAL)
        acc = multiply(patch, high, low, acc, TERMS)
        for group in range(1, GROUPS):
            patch = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C, RESIDUAL)
            at = group * WIDTH * OP
            acc = multiply(patch, tl.load(high_at + at), tl.load(low_at + at), acc, TERMS)
        # Loaded for each tile: held over the loop, they would cost registers.
        value = acc * tl.load(factor + o)[None, :] + tl.load(shift + o)[None, :]

        target = out + n * out_stride_n + q[:, None] * out_stride_q + o[None, :].to(tl.int64) * out_stride_o
        tl.store(target, rounded(value, out.dtype.element_ty), mask=here[:, None] & (o < outputs)[None, :])


def conv2d(
    images: Tensor,  # uint8 [N, C, H, W]
    weight: Tensor,  # [O, Q, 3, 3]
    bias: Tensor | None,  # [O]
    channel_scale: Sequence[float],
    out_dtype: torch.dtype,
    channels_last: bool,
    fast: bool,
    residual: str = "npr",
) -> Tensor:  # [N, O, H // 2, W // 2]
    """The op ``npr::conv2d`` (npr_kernels/ops.py) in Triton."""
    n, channels, height, width = images.shape
    outputs, rows, cols = weight.shape[0], height // 2, width // 2
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty((n, outputs, rows, cols), dtype=out_dtype, device=images.device, memory_format=memory_format)
    if out.numel() == 0:
        return out
    folded = fold(weight, bias, channel_scale, residual=residual, out_dtype=out_dtype, fast=fast)
    plane_strides = (outputs * rows * cols, 1, outputs) if channels_last else (outputs * rows * cols, rows * cols, 1)
    block_o = block_of_outputs(outputs, out_dtype)

    def launch(config: tuning.Config) -> None:
        tiles_per_image = triton.cdiv(rows * cols, config.block)
        tiles = n * tiles_per_image
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        _conv2d[(programs, triton.cdiv(outputs, block_o))](
            images, *images.stride(), *folded[:3], out, *plane_strides, rows, cols, outputs, tiles_per_image, tiles,
            C=channels, RESIDUAL=residual, OP=folded.terms.shape[2], TERMS=folded.terms.shape[0],
            BLOCK_P=config.block, BLOCK_O=block_o, num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip

    kind = (residual, out_dtype, channels_last, folded.terms.shape[0], channels, outputs, images.stride(3) == 1)
    configs = tuning.fitted(_configs(out_dtype), residual)
    tuning.run("conv2d", kind, out.numel() // outputs, images.device, configs, launch)
    return out


def _configs(out_dtype: torch.dtype) -> tuple[tuning.Config, ...]:
    """For NPR. The first is the heuristic. Wide values need smaller tiles."""
    if out_dtype == torch.float64:
        return (tuning.FLOAT64_CONFIG,)
    return (
        tuning.Config(block=128, programs=6, num_warps=4),
        tuning.Config(block=128, programs=3, num_warps=4),
        tuning.Config(block=64, programs=8, num_warps=4),
        tuning.Config(block=256, programs=2, num_warps=8),
    )
