"""stem_backward: gradients of the stem's weight, gamma and beta from the pooled gradient, the images and ``code``.

    S[o, k] = sum_p g[p, o] d[p*(p, o), k],    s0[o] = sum_p g[p, o]           over pooled positions with an open ReLU
    inv = 1 / sqrt(var + eps),    s1 = inv (W . S - mean s0),    XD = inv (W M2 - mean M1)
    grad_beta = s0,    grad_gamma = s1,    grad_W = gamma inv (S - s0 M1 / N - s1 XD / N)

with W = weight * channel_scale, p* the convolution output that was the maximum, and N, M1, M2 the patch moments. The
terms with 1 / N are the batch statistics' own dependence on W; without moments (frozen statistics) they vanish.

The first kernel is the pass over the data. For each of the nine places in a window, the gradients whose maximum was
there are multiplied with the patches there: nine products [O, positions] x [positions, K], where a gather of K
numbers for each gradient would be scattered reads. Resident programs sum their tiles in float64, in order; the second
kernel adds the programs' sums in order and does the algebra, an output channel a program. No atomics: the result
repeats bit for bit for a configuration.

Cost a pooled position: O gradient values, O code bytes and 16 C image bytes read; 9 x K' O multiply-adds on tensor
cores, K' the columns of the patches (:mod:`.layout`), more for some dtypes and residuals (:mod:`.products`). Workspace:
programs x O x (K + 1) doubles.

Source: Ioffe and Szegedy, 2015 (arXiv 1502.03167), Section 3, with the map replaced by its moments (docs).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, layout, tuning
from npr_kernels.backends.triton.fold import block_of_outputs, moments_times_weight, scale_of, scaled_weight
from npr_kernels.backends.triton.patches import patches, split_index
from npr_kernels.backends.triton.products import contract, rounded
from npr_kernels.backends.triton.stem import CLOSED

_CLOSED = tl.constexpr(CLOSED)


@triton.jit
def _partial_sums(
    grad, grad_stride_n, grad_stride_o, grad_stride_y, grad_stride_x,  # [N, O, pooled_rows, pooled_cols]
    code, code_stride_n, code_stride_o, code_stride_y, code_stride_x,  # uint8, like grad
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    sums,  # float64 [programs, outputs, K + 1]
    N, rows, cols, pooled_rows, pooled_cols, outputs,
    tiles,
    C: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    o64 = o[None, :].to(tl.int64)
    WIDTH: tl.constexpr = layout.width(RESIDUAL, C)
    LARGEST: tl.constexpr = layout.largest(RESIDUAL)
    group = 0 if layout.groups(RESIDUAL, C) == 1 else tl.program_id(2)
    total = tl.zeros([BLOCK_O, WIDTH], tl.float64)
    zero = tl.zeros([BLOCK_O, WIDTH], tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32)
    grad_total = tl.zeros([BLOCK_O], tl.float64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, px = split_index(tl.cast(tile, tl.int64) * BLOCK_P, pooled_cols, BLOCK_P)
        n, py = row // pooled_rows, (row % pooled_rows).to(tl.int32)
        here = n < N
        mask = here[:, None] & (o < outputs)[None, :]
        at = n * grad_stride_n + py.to(tl.int64) * grad_stride_y + px.to(tl.int64) * grad_stride_x
        g = tl.load(grad + at[:, None] + o64 * grad_stride_o, mask=mask, other=0)
        at = n * code_stride_n + py.to(tl.int64) * code_stride_y + px.to(tl.int64) * code_stride_x
        place = tl.load(code + at[:, None] + o64 * code_stride_o, mask=mask, other=_CLOSED)
        wide = g if g.dtype == tl.float64 else g.to(tl.float32)
        grad_total += tl.sum(tl.where(place != _CLOSED, wide, 0.0), axis=0).to(tl.float64)

        # Each gradient meets one place, so the sum over places has no more terms than one product.
        tile_total = zero
        for step in range(9):
            y = tl.minimum(tl.maximum(2 * py + step // 3 - 1, 0), rows - 1)
            x = tl.minimum(tl.maximum(2 * px + step % 3 - 1, 0), cols - 1)
            image = images + n * stride_n
            patch = patches(image, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C, RESIDUAL)
            tile_total = contract(tl.where(place == step, g, 0.0), patch, tile_total, LARGEST)
        total += tile_total.to(tl.float64)

    K: tl.constexpr = layout.length(RESIDUAL, C)
    k = layout.tap_of(group * WIDTH + tl.arange(0, WIDTH), RESIDUAL, C)
    target = sums + (tl.program_id(0).to(tl.int64) * outputs + o) * (K + 1)
    tl.store(target[:, None] + k[None, :], total, mask=(o < outputs)[:, None] & (k >= 0)[None, :])
    tl.store(target + K, grad_total, mask=tl.where(group == 0, o < outputs, False))


@triton.jit
def _finish(
    sums, programs, outputs,  # float64 [programs, O, K + 1]
    moments,  # int64 [1 + K + K^2] or None
    weight, stride_o, stride_c, stride_h, stride_w,  # [O, Q, 3, 3]
    gamma,  # [O] or None
    mean, var,  # float64 [O]
    grad_weight, grad_gamma, grad_beta,
    RESIDUAL: tl.constexpr,
    SCALES: tl.constexpr,
    EPS: tl.constexpr,
    KP: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    o = tl.program_id(0) * BLOCK_O + tl.arange(0, BLOCK_O)
    k = tl.arange(0, KP)
    C: tl.constexpr = len(SCALES) // layout.maps(RESIDUAL)
    K: tl.constexpr = layout.length(RESIDUAL, C)
    exists = o < outputs
    mask = exists[:, None] & (k < K)[None, :]
    s = tl.zeros([BLOCK_O, KP], tl.float64)
    s0 = tl.zeros([BLOCK_O], tl.float64)
    for start in range(0, programs, BLOCK_S):
        program = start + tl.arange(0, BLOCK_S)
        row = sums + (program[:, None].to(tl.int64) * outputs + o[None, :]) * (K + 1)
        there = (program < programs)[:, None] & exists[None, :]
        s += tl.sum(tl.load(row[:, :, None] + k, mask=there[:, :, None] & (k < K), other=0), axis=0)
        s0 += tl.sum(tl.load(row + K, mask=there, other=0), axis=0)

    w = scaled_weight(weight, stride_o, stride_c, stride_h, stride_w, o, k, outputs, RESIDUAL, SCALES)
    centre = tl.load(mean + o, mask=exists, other=0)
    inverse = 1.0 / tl.sqrt(tl.load(var + o, mask=exists, other=1) + tl.full([BLOCK_O], EPS, tl.float64))
    s1 = inverse * (tl.sum(w * s, axis=1) - centre * s0)
    dtype = grad_weight.dtype.element_ty
    tl.store(grad_beta + o, rounded(s0, dtype), mask=exists)
    tl.store(grad_gamma + o, rounded(s1, dtype), mask=exists)

    if moments is not None:
        rate, first, product = moments_times_weight(
            moments, weight, stride_o, stride_c, stride_h, stride_w, o, k, outputs, RESIDUAL, SCALES
        )
        dense = inverse[:, None] * (product - centre[:, None] * first[None, :])
        s -= rate * (s0[:, None] * first[None, :] + s1[:, None] * dense)
    s *= inverse[:, None]
    if gamma is not None:
        s *= tl.load(gamma + o, mask=exists, other=0).to(tl.float64)[:, None]
    channel, position, dead = layout.place_of(k, RESIDUAL, C)
    at = grad_weight + o[:, None].to(tl.int64) * (9 * len(SCALES)) + 9 * channel[None, :]
    value = rounded(s * scale_of(channel, SCALES)[None, :], dtype)
    tl.store(at + position[None, :], value, mask=mask)
    tl.store(at + 4, tl.zeros([BLOCK_O, KP], dtype), mask=mask & (dead & (position == 0))[None, :])


def stem_backward(
    grad: Tensor,  # [N, O, Hp, Wp]
    images: Tensor,  # uint8 [N, C, H, W]
    code: Tensor,  # uint8 [N, O, Hp, Wp]
    moments: Tensor | None,  # int64 [1 + K + K * K]
    weight: Tensor,  # [O, Q, 3, 3]
    bn_weight: Tensor | None,  # [O]
    mean: Tensor,  # float64 [O]
    var: Tensor,  # float64 [O]
    eps: float,
    channel_scale: Sequence[float],
    residual: str = "npr",
) -> tuple[Tensor, Tensor, Tensor]:  # [O, Q, 3, 3], [O], [O] in the weight's dtype
    """The op ``npr::stem_backward`` (npr_kernels/ops.py) in Triton."""
    n, channels, height, width = images.shape
    outputs, pooled_rows, pooled_cols = grad.shape[1:]
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    grad_gamma, grad_beta = weight.new_empty((outputs,)), weight.new_empty((outputs,))
    if grad.numel() == 0:
        return grad_weight.zero_(), grad_gamma.zero_(), grad_beta.zero_()
    block_o = block_of_outputs(outputs, grad.dtype)
    taps = layout.length(residual, channels)
    vectors = (moments, bn_weight, mean, var)
    moments_, gamma, mean_, var_ = (None if v is None else v.contiguous() for v in vectors)
    taps_padded = triton.next_power_of_2(taps)

    def launch(config: tuning.Config) -> None:
        tiles = triton.cdiv(n * pooled_rows * pooled_cols, config.block)
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        sums = torch.empty((programs, outputs, taps + 1), dtype=torch.float64, device=images.device)
        _partial_sums[(programs, triton.cdiv(outputs, block_o), layout.groups(residual, channels))](
            grad, *grad.stride(), code, *code.stride(), images, *images.stride(), sums,
            n, height // 2, width // 2, pooled_rows, pooled_cols, outputs, tiles,
            C=channels, RESIDUAL=residual, BLOCK_P=config.block, BLOCK_O=block_o,
            num_warps=config.num_warps, **compat.OPTIONS,
        )  # fmt: skip
        _finish[(triton.cdiv(outputs, compat.OUTPUTS_PER_PROGRAM),)](
            sums, programs, outputs, moments_, weight, *weight.stride(), gamma, mean_, var_,
            grad_weight, grad_gamma, grad_beta,
            RESIDUAL=residual, SCALES=tuple(channel_scale), EPS=eps, KP=taps_padded,
            BLOCK_S=max(1, 4096 // taps_padded), BLOCK_O=compat.OUTPUTS_PER_PROGRAM, **compat.OPTIONS,
        )  # fmt: skip

    kind = (residual, grad.dtype, grad.stride(1) == 1, channels, outputs, images.stride(3) == 1)
    configs = tuning.fitted(_configs(grad.dtype), residual)
    tuning.run("stem_backward", kind, grad.numel() // outputs, images.device, configs, launch)
    return grad_weight, grad_gamma, grad_beta


def _configs(grad_dtype: torch.dtype) -> tuple[tuning.Config, ...]:
    """For NPR. The first is the heuristic. Wide values need smaller tiles."""
    if grad_dtype == torch.float64:
        return (tuning.FLOAT64_CONFIG,)
    if grad_dtype == torch.float32:
        return (
            tuning.Config(block=64 if compat.INTERPRETED else 32, programs=4, num_warps=4),
            tuning.Config(block=64, programs=2, num_warps=4),
        )
    return (
        tuning.Config(block=64 if compat.INTERPRETED else 32, programs=4, num_warps=4),
        tuning.Config(block=64, programs=2, num_warps=4),
        tuning.Config(block=128, programs=2, num_warps=8),
    )
