"""Runs every CUDA kernel on small odd shapes: what compute-sanitizer watches.

    python -m tests.npr_kernels.cuda.small_run

Inputs are copied to the device as they are, so that no kernel but those of the package touches them: a tool that only
watches these knows all memory that they may read. Prints READY before the first kernel and DONE after the last.
"""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from npr_kernels.backends import native
from tests.npr_kernels import implementations
from tests.npr_kernels.accuracy import assert_relative
from tests.npr_kernels.implementations import Implementation, Reference, of_residual
from tests.npr_kernels.inputs import RESIDUALS, draw_grad, draw_images, draw_weight

READY, DONE = "small run: ready", "small run: done"

OUTPUTS = 40  # a whole group of output channels and a bit
# N, C, H, W of the images, their layout, dtypes of everything else and residuals: copies of 16 bytes, of 4 (or 2 x 1)
# and of 1; every dtype; more than a tile across and down; channels that take the plain kernels.
CASES = (
    ((2, 3, 9, 32), "nchw", (torch.float32, torch.bfloat16, torch.float16, torch.float64), RESIDUALS),
    ((1, 3, 13, 21), "channels_last", (torch.float16,), ("npr", "npr+haar")),
    ((1, 3, 11, 19), "strided", (torch.bfloat16,), ("npr", "npr+haar")),
    ((1, 3, 18, 136), "nchw", (torch.float32,), ("npr", "npr+haar")),
    ((2, 2, 7, 11), "nchw", (torch.float32, torch.bfloat16), ("npr+haar",)),
)


def run(kernels: Implementation) -> None:
    """Every op on every case, compared with the reference."""
    rng = np.random.default_rng(0)
    for shape, layout, dtypes, residuals in CASES:
        images = draw_images(rng, shape, layout)
        for residual in residuals:
            ops = of_residual(kernels, residual), of_residual(Reference, residual)
            moments, truth = (of.patch_moments(images) for of in ops)
            assert torch.equal(moments, truth)
            for dtype in dtypes:
                convolution(*ops, rng, images, residual, dtype)
                stem(*ops, rng, images, residual, moments, dtype)


def draw_scale(channels: int, residual: str) -> list[float]:
    return [0.01 + 0.001 * q for q in range(channels * len(residual.split("+")))]


def convolution(
    kernels: SimpleNamespace, reference: SimpleNamespace, rng: np.random.Generator, images: Tensor, residual: str,
    dtype: torch.dtype,
) -> None:  # fmt: skip
    n, channels, height, width = images.shape
    scale = draw_scale(channels, residual)
    weight = draw_weight(rng, OUTPUTS, channels, dtype, residual)
    bias = torch.from_numpy(rng.standard_normal(OUTPUTS)).to(dtype)
    for channels_last, fast in itertools.product((False, True), (False, True)):
        arguments = images, weight, bias, scale, dtype, channels_last, fast
        check([kernels.conv2d(*arguments)], [reference.conv2d(*arguments)], 1e-3 if fast else 1e-6, dtype)
    for layout in ("nchw", "channels_last", "strided"):
        grad = draw_grad(rng, (n, OUTPUTS, height // 2, width // 2), dtype, layout)
        arguments = grad, images, scale, dtype, True
        check(kernels.conv2d_backward(*arguments), reference.conv2d_backward(*arguments), 1e-6, dtype)


def stem(
    kernels: SimpleNamespace, reference: SimpleNamespace, rng: np.random.Generator, images: Tensor, residual: str,
    moments: Tensor, dtype: torch.dtype,
) -> None:  # fmt: skip
    channels = images.shape[1]
    scale = draw_scale(channels, residual)
    weight = draw_weight(rng, OUTPUTS, channels, dtype, residual)
    gamma, beta = (torch.from_numpy(rng.standard_normal(OUTPUTS)).to(dtype) for _ in range(2))
    running = torch.zeros(OUTPUTS, dtype=torch.float64), torch.ones(OUTPUTS, dtype=torch.float64)
    for given, statistics in ((moments, (None, None)), (None, running)):
        arguments = images, given, weight, gamma, beta, *statistics, 1e-5, scale, dtype
        for fast in (False, True):
            check(kernels.stem(*arguments, False, fast)[:1], reference.stem(*arguments, False, fast)[:1],
                  1e-3 if fast else 1e-6, dtype)  # fmt: skip
        out, code, mean, var = kernels.stem(*arguments, True, False)
        for layout in ("channels_last", "strided"):
            grad = draw_grad(rng, tuple(out.shape), dtype, layout)
            backward = grad, images, code, given, weight, gamma, mean, var, 1e-5, scale
            check(kernels.stem_backward(*backward), reference.stem_backward(*backward), 1e-5, dtype)


def check(results: tuple[Tensor, ...] | list[Tensor], truths: tuple[Tensor, ...] | list[Tensor], tolerance: float,
          dtype: torch.dtype) -> None:  # fmt: skip
    for result, truth in zip(results, truths, strict=True):
        assert_relative(result, truth, tolerance + 2 * torch.finfo(dtype).eps)


def main() -> None:
    reason = native.unavailable_reason("cuda")
    if reason is not None:
        sys.exit(reason)
    torch.zeros(1).to("cuda")
    print(READY, flush=True)
    with implementations.loaded("cuda") as kernels:
        run(kernels)
    torch.cuda.synchronize()
    print(DONE, flush=True)


if __name__ == "__main__":
    main()
