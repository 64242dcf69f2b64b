"""conv2d_backward: gradients of the convolution's weight and bias.

    grad_weight[o, k] = channel_scale[c] sum_p grad[p, o] d[p, k],     grad_bias[o] = sum_p grad[p, o]

A product [O, positions] x [positions, K], split over resident programs. Each sums its tiles' products in float64, in
order, and writes its sums; a second kernel adds the programs' sums in order. No atomics: the result repeats bit for bit
for a configuration. The centre tap, whose residual is always zero, gets exactly zero.

Cost an output position: O gradient values and 4 C bytes read; 8 C' O multiply-adds on tensor cores, C' = C rounded up
to 2 or a multiple of 4, three times for float32 gradients (:mod:`.products`). Reading the gradient bounds it.
Workspace: programs x O x (8 C + 1) doubles.

Source: the convolution is linear in its weight; the splitting is the project's (docs).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, tuning
from npr_kernels.backends.triton.fold import block_of_outputs, channels_per_group, scale_of
from npr_kernels.backends.triton.patches import patches, split_index
from npr_kernels.backends.triton.products import contract, rounded


@triton.jit
def _partial_sums(
    grad, grad_stride_n, grad_stride_o, grad_stride_q,  # [N, O, rows * cols]
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    sums,  # float64 [programs, outputs, 8 C + 1]: sum grad d^T, and sum grad last
    rows, cols, outputs,
    tiles_per_image, tiles,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    channel = 0 if C <= GROUP else tl.program_id(2) * GROUP
    total = tl.zeros([BLOCK_O, 8 * GROUP], tl.float64)
    zero = tl.zeros([BLOCK_O, 8 * GROUP], tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32)
    bias_total = tl.zeros([BLOCK_O], tl.float64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = (tile // tiles_per_image).to(tl.int64)
        start = (tile % tiles_per_image).to(tl.int64) * BLOCK_P
        q = start + tl.arange(0, BLOCK_P)
        here = q < tl.cast(rows, tl.int64) * cols
        y, x = split_index(start, cols, BLOCK_P)

        source = grad + n * grad_stride_n + q[:, None] * grad_stride_q + o[None, :].to(tl.int64) * grad_stride_o
        g = tl.load(source, mask=here[:, None] & (o < outputs)[None, :], other=0)
        patch = patches(images + n * stride_n, y, x, here, stride_c, stride_h, stride_w, channel, C, GROUP)
        total += contract(g, patch, zero).to(tl.float64)
        if BIAS:
            wide = g if g.dtype == tl.float64 else g.to(tl.float32)
            bias_total += tl.sum(wide, axis=0).to(tl.float64)

    WIDTH: tl.constexpr = 8 * C + 1
    k = 8 * channel + tl.arange(0, 8 * GROUP)
    row = sums + (tl.program_id(0).to(tl.int64) * outputs + o) * WIDTH
    tl.store(row[:, None] + k[None, :], total, mask=(o < outputs)[:, None] & (k < 8 * C)[None, :])
    if BIAS:
        tl.store(row + 8 * C, bias_total, mask=tl.where(channel == 0, o < outputs, False))


@triton.jit
def _finish(
    sums, programs, outputs,  # float64 [programs, outputs, 8 C + 1]
    grad_weight,  # [O, C, 3, 3]
    grad_bias,  # [O]
    SCALES: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_O: tl.constexpr,
    BLOCK_J: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SCALES)
    WIDTH: tl.constexpr = 8 * C + 1
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    exists = o < outputs
    j = tl.arange(0, BLOCK_J)  # position in the flattened [C, 3, 3], then the bias
    channel, position = j // 9, j % 9
    column = 8 * channel + position - (position > 4).to(tl.int32)
    wanted = (channel < C) & (position != 4)
    scale = scale_of(channel, SCALES)
    if BIAS:
        last = j == 9 * C
        column, wanted, scale = tl.where(last, 8 * C, column), wanted | last, tl.where(last, 1.0, scale)

    total = tl.zeros([BLOCK_O, BLOCK_J], tl.float64)
    for start in range(0, programs, BLOCK_S):
        program = start + tl.arange(0, BLOCK_S)
        row = sums + (program[:, None].to(tl.int64) * outputs + o[None, :]) * WIDTH
        mask = ((program < programs)[:, None] & exists[None, :])[:, :, None] & wanted
        total += tl.sum(tl.load(row[:, :, None] + column, mask=mask, other=0), axis=0)
    value = rounded(total * scale[None, :], grad_weight.dtype.element_ty)
    target = grad_weight + o[:, None].to(tl.int64) * (9 * C) + j[None, :]
    tl.store(target, value, mask=exists[:, None] & (j < 9 * C)[None, :])
    if BIAS:
        target = grad_bias + o[:, None] + tl.zeros_like(j)[None, :]
        tl.store(target, value, mask=exists[:, None] & last[None, :])


def conv2d_backward(
    grad: Tensor,  # [N, O, H // 2, W // 2]
    images: Tensor,  # uint8 [N, C, H, W]
    channel_scale: Sequence[float],
    weight_dtype: torch.dtype,
    bias: bool,
) -> tuple[Tensor, Tensor]:  # [O, C, 3, 3], [O] or [0]
    """The op ``npr::conv2d_backward`` (npr_kernels/ops.py) in Triton."""
    channels = images.shape[1]
    outputs, rows, cols = grad.shape[1:]
    grad_weight = grad.new_empty((outputs, channels, 3, 3), dtype=weight_dtype)
    grad_bias = grad.new_empty((outputs if bias else 0,), dtype=weight_dtype)
    if grad.numel() == 0:
        return grad_weight.zero_(), grad_bias.zero_()
    # The kernel walks a plane with one stride.
    if grad.stride(2) != cols * grad.stride(3):
        grad = grad.contiguous()
    block_o = block_of_outputs(outputs, grad.dtype)
    group = channels_per_group(channels)

    def launch(config: tuning.Config) -> None:
        tiles_per_image = triton.cdiv(rows * cols, config.block)
        tiles = images.shape[0] * tiles_per_image
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        sums = torch.empty((programs, outputs, 8 * channels + 1), dtype=torch.float64, device=images.device)
        _partial_sums[(programs, triton.cdiv(outputs, block_o), triton.cdiv(channels, group))](
            grad, grad.stride(0), grad.stride(1), grad.stride(3), images, *images.stride(), sums,
            rows, cols, outputs, tiles_per_image, tiles,
            C=channels, GROUP=group, BIAS=bias, BLOCK_P=config.block, BLOCK_O=block_o,
            num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip
        block_j = triton.next_power_of_2(9 * channels + 1)
        _finish[(triton.cdiv(outputs, compat.OUTPUTS_PER_PROGRAM),)](
            sums, programs, outputs, grad_weight, grad_bias,
            SCALES=tuple(channel_scale), BIAS=bias, BLOCK_S=max(1, 4096 // block_j),
            BLOCK_O=compat.OUTPUTS_PER_PROGRAM, BLOCK_J=block_j, **compat.OPTIONS,
        )  # fmt: skip

    kind = (grad.dtype, grad.stride(1) == 1, bias, channels, outputs, images.stride(3) == 1)
    tuning.run("conv2d_backward", kind, grad.numel() // outputs, images.device, _configs(grad.dtype), launch)
    return grad_weight, grad_bias


def _configs(grad_dtype: torch.dtype) -> tuple[tuning.Config, ...]:
    """The first is the heuristic. Wide values need smaller tiles."""
    if grad_dtype == torch.float64:
        return (tuning.FLOAT64_CONFIG,)
    if grad_dtype == torch.float32:
        return (
            tuning.Config(block=64, programs=4, num_warps=4),
            tuning.Config(block=64, programs=2, num_warps=4),
            tuning.Config(block=128, programs=2, num_warps=4),
        )
    return (
        tuning.Config(block=128, programs=4, num_warps=4),
        tuning.Config(block=128, programs=2, num_warps=4),
        tuning.Config(block=64, programs=4, num_warps=4),
        tuning.Config(block=256, programs=2, num_warps=8),
    )
