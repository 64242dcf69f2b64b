"""stem_backward_sums: what the stem's gradients need of the images and of the pooled gradient.

    S[o, k] = sum_p g[p, o] d[p*(p, o), k],    s0[o] = sum_p g[p, o]           over pooled positions with an open ReLU

p* is the convolution output that was the maximum, from ``code``. For each of the nine places in a window, the gradients
whose maximum was there are multiplied with the patches there: nine products [O, positions] x [positions, K], where a
gather of 8 C numbers for each gradient would be scattered reads. Sums are kept and added in float64, in order; no
atomics: the result repeats bit for bit for a configuration.

Cost a pooled position: O gradient values, O code bytes and 16 C image bytes read; 9 x 8 C' O multiply-adds on tensor
cores, C' = C rounded up to 2 or a multiple of 4, three times for float32 gradients. Workspace: programs x O x (8 C + 1)
doubles.

Source: the gradient of max_pool2d and ReLU; the rest of the stem's gradient is :mod:`.stem_backward_finish`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from npr_kernels.backends.triton import compat, tuning
from npr_kernels.backends.triton.fold import block_of_outputs, channels_per_group
from npr_kernels.backends.triton.patches import only_if, split_index, window_row
from npr_kernels.backends.triton.products import contract
from npr_kernels.backends.triton.stem import CLOSED

_CLOSED = tl.constexpr(CLOSED)


@triton.jit
def _partial_sums(
    grad, grad_stride_n, grad_stride_o, grad_stride_y, grad_stride_x,  # [N, O, pooled_rows, pooled_cols]
    code, code_stride_n, code_stride_o, code_stride_y, code_stride_x,  # uint8, like grad
    images, stride_n, stride_c, stride_h, stride_w,  # uint8 [N, C, H, W]
    sums,  # float64 [programs, O, 8 C + 1]
    N, rows, cols, pooled_rows, pooled_cols, O,
    tiles,
    C: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_O: tl.constexpr,
):  # fmt: skip
    stride_c, stride_h, stride_w = tl.cast(stride_c, tl.int64), tl.cast(stride_h, tl.int64), tl.cast(stride_w, tl.int64)
    o = tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O)
    o64 = o[None, :].to(tl.int64)
    channel = tl.program_id(2) * GROUP
    total = tl.zeros([BLOCK_O, 8 * GROUP], tl.float64)
    grad_total = tl.zeros([BLOCK_O], tl.float64)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        row, px = split_index(tl.cast(tile, tl.int64) * BLOCK_P, pooled_cols, BLOCK_P)
        n, py = row // pooled_rows, row % pooled_rows
        here = n < N
        mask = here[:, None] & (o < O)[None, :]
        at = n * grad_stride_n + py * grad_stride_y + px.to(tl.int64) * grad_stride_x
        g = tl.load(grad + at[:, None] + o64 * grad_stride_o, mask=mask, other=0)
        at = n * code_stride_n + py * code_stride_y + px.to(tl.int64) * code_stride_x
        place = tl.load(code + at[:, None] + o64 * code_stride_o, mask=mask, other=_CLOSED)
        wide = g if g.dtype == tl.float64 else g.to(tl.float32)
        grad_total += tl.sum(tl.where(place != _CLOSED, wide, 0.0), axis=0).to(tl.float64)

        left, right = px > 0, 2 * px + 1 < cols
        for dy in tl.static_range(3):
            y = 2 * py + dy - 1
            exists = here & (y >= 0) & (y < rows)
            pixel = images + n * stride_n + 2 * y * stride_h + 4 * px * stride_w
            a, b, c = window_row(pixel, stride_c, stride_h, stride_w, y > 0, exists, left, right, channel, C, GROUP)
            total += contract(tl.where(place == 3 * dy, g, 0.0), a).to(tl.float64)
            total += contract(tl.where(place == 3 * dy + 1, g, 0.0), b).to(tl.float64)
            total += contract(tl.where(place == 3 * dy + 2, g, 0.0), c).to(tl.float64)

    WIDTH: tl.constexpr = 8 * C + 1
    k = 8 * channel + tl.arange(0, 8 * GROUP)
    target = sums + (tl.program_id(0).to(tl.int64) * O + o) * WIDTH
    tl.store(target[:, None] + k[None, :], total, mask=(o < O)[:, None] & (k < 8 * C)[None, :])
    tl.store(target + 8 * C, grad_total, mask=only_if(channel == 0, o < O))


def stem_backward_sums(
    grad: Tensor,  # [N, O, Hp, Wp]
    images: Tensor,  # uint8 [N, C, H, W]
    code: Tensor,  # uint8 [N, O, Hp, Wp]
) -> Tensor:  # float64 [O, 8 C + 1]: S, and s0 last
    """The op ``npr::stem_backward_sums`` (npr_kernels/ops.py) in Triton."""
    n, outputs, pooled_rows, pooled_cols = grad.shape
    channels, height, width = images.shape[1:]
    if grad.numel() == 0:
        return grad.new_zeros((outputs, 8 * channels + 1), dtype=torch.float64)
    block_o = block_of_outputs(outputs)
    group = channels_per_group(channels)
    out = torch.empty(0)

    def launch(config: tuning.Config) -> None:
        nonlocal out
        tiles = triton.cdiv(n * pooled_rows * pooled_cols, config.block)
        programs = min(tiles, config.programs * compat.multiprocessors(images.device))
        sums = torch.empty((programs, outputs, 8 * channels + 1), dtype=torch.float64, device=images.device)
        _partial_sums[(programs, triton.cdiv(outputs, block_o), triton.cdiv(channels, group))](
            grad, *grad.stride(), code, *code.stride(), images, *images.stride(), sums,
            n, height // 2, width // 2, pooled_rows, pooled_cols, outputs, tiles,
            C=channels, GROUP=group, BLOCK_P=config.block, BLOCK_O=block_o, num_warps=config.num_warps,
        )  # fmt: skip
        out = sums.sum(dim=0)

    kind = (grad.dtype, grad.stride(1) == 1, channels, outputs, images.stride(3) == 1)
    tuning.run("stem_backward_sums", kind, grad.numel() // outputs, _CONFIGS, launch)
    return out


# The first is the heuristic.
_CONFIGS = (
    tuning.Config(block=64, programs=4, num_warps=4),
    tuning.Config(block=128, programs=2, num_warps=4),
    tuning.Config(block=128, programs=2, num_warps=8),
)
