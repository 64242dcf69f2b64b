"""conv2d_backward: gradients of the convolution's weight and bias.

    grad_weight[o, k] = channel_scale[c] sum_p grad[p, o] d[p, k],     grad_bias[o] = sum_p grad[p, o]

A product [O, positions] x [positions, K], split over resident programs. Each sums its tiles' products in float64, in
order, and writes its sums; a second kernel adds the programs' sums in order. No atomics: the result repeats bit for bit
for a configuration. NPR's centre tap, whose residual is always zero, gets exactly zero.

Cost an output position: O gradient values and 4 C bytes read; K' O multiply-adds on tensor cores, K' the columns of the
patches (:mod:`.layout`), more for some dtypes and residuals (:mod:`.products`). Reading the gradient bounds it.
Workspace: programs x O x (K + 1) doubles.

Source: the convolution is linear in its weight; the splitting is the project's (docs).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, layout, tuning
from npr_kernels.backends.triton.fold import block_of_outputs, scale_of
from npr_kernels.backends.triton.patches import patches, split_index
from npr_kernels.backends.triton.products import contract, rounded


@triton.jit
def _partial_sums(
    grad, grad_stride_n, grad_stride_o, grad_stride_q,  # [N, O, rows * cols]
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    sums,  # float64 [programs, outputs, K + 1]: sum grad d^T, and sum grad last
    rows, cols, outputs,
    tiles_per_image, tiles,
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    WIDTH: tl.constexpr = layout.width(RESIDUAL, C)
    LARGEST: tl.constexpr = layout.largest(RESIDUAL)
    group = 0 if layout.groups(RESIDUAL, C) == 1 else tl.program_id(2)
    total = tl.zeros([BLOCK_O, WIDTH], tl.float64)
    zero = tl.zeros([BLOCK_O, WIDTH], tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32)
    bias_total = tl.zeros([BLOCK_O], tl.float64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        n = (tile // tiles_per_image).to(tl.int64)
        start = (tile % tiles_per_image).to(tl.int64) * BLOCK_P
        q = start + tl.arange(0, BLOCK_P)
        here = q < tl.cast(rows, tl.int64) * cols
        y, x = split_index(start, cols, BLOCK_P)

        source = grad + n * grad_stride_n + q[:, None] * grad_stride_q + o[None, :].to(tl.int64) * grad_stride_o
        g = tl.load(source, mask=here[:, None] & (o < outputs)[None, :], other=0)
        image = images + n * stride_n
        patch = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C, RESIDUAL)
        total += contract(g, patch, zero, LARGEST).to(tl.float64)
        if BIAS:
            wide = g if g.dtype == tl.float64 else g.to(tl.float32)
            bias_total += tl.sum(wide, axis=0).to(tl.float64)

    K: tl.constexpr = layout.length(RESIDUAL, C)
    k = layout.tap_of(group * WIDTH + tl.arange(0, WIDTH), RESIDUAL, C)
    row = sums + (tl.program_id(0).to(tl.int64) * outputs + o) * (K + 1)
    tl.store(row[:, None] + k[None, :], total, mask=(o < outputs)[:, None] & (k >= 0)[None, :])
    if BIAS:
        tl.store(row + K, bias_total, mask=tl.where(group == 0, o < outputs, False))


@triton.jit
def _finish(
    sums, programs, outputs,  # float64 [programs, outputs, K + 1]
    grad_weight,  # [O, Q, 3, 3]
    grad_bias,  # [O]
    RESIDUAL: tl.constexpr,
    SCALES: tl.constexpr,
    BIAS: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_O: tl.constexpr,
    KP: tl.constexpr,
):  # fmt: skip
    C: tl.constexpr = len(SCALES) // layout.maps(RESIDUAL)
    K: tl.constexpr = layout.length(RESIDUAL, C)
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    exists = o < outputs
    k = tl.arange(0, KP)  # the taps, then the bias
    channel, position, dead = layout.place_of(k, RESIDUAL, C)
    wanted, scale = k < K, scale_of(channel, SCALES)
    if BIAS:
        wanted, scale = k <= K, tl.where(k == K, 1.0, scale)

    total = tl.zeros([BLOCK_O, KP], tl.float64)
    for start in range(0, programs, BLOCK_S):
        program = start + tl.arange(0, BLOCK_S)
        row = sums + (program[:, None].to(tl.int64) * outputs + o[None, :]) * (K + 1)
        mask = ((program < programs)[:, None] & exists[None, :])[:, :, None] & wanted
        total += tl.sum(tl.load(row[:, :, None] + k, mask=mask, other=0), axis=0)
    value = rounded(total * scale[None, :], grad_weight.dtype.element_ty)
    at = grad_weight + o[:, None].to(tl.int64) * (9 * len(SCALES)) + 9 * channel[None, :]
    mask = exists[:, None] & (k < K)[None, :]
    tl.store(at + position[None, :], value, mask=mask)
    tl.store(at + 4, tl.zeros_like(value), mask=mask & (dead & (position == 0))[None, :])
    if BIAS:
        target = grad_bias + o[:, None] + tl.zeros_like(k)[None, :]
        tl.store(target, value, mask=exists[:, None] & (k == K)[None, :])


def conv2d_backward(
    grad: Tensor,  # [N, O, H // 2, W // 2]
    images: Tensor,  # uint8 [N, C, H, W]
    channel_scale: Sequence[float],
    weight_dtype: torch.dtype,
    bias: bool,
    residual: str = "npr",
) -> tuple[Tensor, Tensor]:  # [O, Q, 3, 3], [O] or [0]
    """The op ``npr::conv2d_backward`` (npr_kernels/ops.py) in Triton."""
    channels = images.shape[1]
    outputs, rows, cols = grad.shape[1:]
    grad_weight = grad.new_empty((outputs, len(channel_scale), 3, 3), dtype=weight_dtype)
    grad_bias = grad.new_empty((outputs if bias else 0,), dtype=weight_dtype)
    if grad.numel() == 0:
        return grad_weight.zero_(), grad_bias.zero_()
    # The kernel walks a plane with one stride.
    if grad.stride(2) != cols * grad.stride(3):
        grad = grad.contiguous()
    block_o = block_of_outputs(outputs, grad.dtype)
    taps = layout.length(residual, channels)
    taps_padded = triton.next_power_of_2(taps + 1)

    def launch(config: tuning.Config) -> None:
        tiles_per_image = triton.cdiv(rows * cols, config.block)
        tiles = images.shape[0] * tiles_per_image
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        sums = torch.empty((programs, outputs, taps + 1), dtype=torch.float64, device=images.device)
        _partial_sums[(programs, triton.cdiv(outputs, block_o), layout.groups(residual, channels))](
            grad, grad.stride(0), grad.stride(1), grad.stride(3), images, *images.stride(), sums,
            rows, cols, outputs, tiles_per_image, tiles,
            C=channels, RESIDUAL=residual, BIAS=bias, BLOCK_P=config.block, BLOCK_O=block_o,
            num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip
        _finish[(triton.cdiv(outputs, compat.OUTPUTS_PER_PROGRAM),)](
            sums, programs, outputs, grad_weight, grad_bias,
            RESIDUAL=residual, SCALES=tuple(channel_scale), BIAS=bias, BLOCK_S=max(1, 4096 // taps_padded),
            BLOCK_O=compat.OUTPUTS_PER_PROGRAM, KP=taps_padded, **compat.OPTIONS,
        )  # fmt: skip

    kind = (residual, grad.dtype, grad.stride(1) == 1, bias, channels, outputs, images.stride(3) == 1)
    configs = tuning.fitted(_configs(grad.dtype), residual)
    tuning.run("conv2d_backward", kind, grad.numel() // outputs, images.device, configs, launch)
    return grad_weight, grad_bias


def _configs(grad_dtype: torch.dtype) -> tuple[tuning.Config, ...]:
    """For NPR. The first is the heuristic. Wide values need smaller tiles."""
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
