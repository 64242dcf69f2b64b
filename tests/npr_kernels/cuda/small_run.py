"""Runs every CUDA kernel on small odd shapes: what compute-sanitizer watches.

    python -m tests.npr_kernels.cuda.small_run

Inputs are copied to the device as they are, so that no kernel but those of the package touches them: a tool that only
watches these knows all memory that they may read. Prints READY before the first kernel and DONE after the last.
"""

from __future__ import annotations

import itertools
import sys

import numpy as np
import torch
from torch import Tensor

from npr_kernels.backends import native
from tests.npr_kernels import implementations
from tests.npr_kernels.accuracy import assert_relative
from tests.npr_kernels.implementations import Implementation, Reference
from tests.npr_kernels.inputs import draw_grad, draw_images, draw_weight

READY, DONE = "small run: ready", "small run: done"

OUTPUTS = 40  # a whole group of output channels and a bit
# N, C, H, W of the images, their layout, dtypes of everything else: copies of 16 bytes, of 4 (or 2 x 1) and of 1; every
# dtype; more than a tile across and down; channels that take the plain kernels.
CASES = (
    ((2, 3, 9, 32), "nchw", (torch.float32, torch.bfloat16, torch.float16, torch.float64)),
    ((1, 3, 13, 21), "channels_last", (torch.float16,)),
    ((1, 3, 11, 19), "strided", (torch.bfloat16,)),
    ((1, 3, 18, 136), "nchw", (torch.float32,)),
    ((2, 2, 7, 11), "nchw", (torch.float32, torch.bfloat16)),
)


def run(kernels: Implementation) -> None:
    """Every op on every case, compared with the reference."""
    rng = np.random.default_rng(0)
    for shape, layout, dtypes in CASES:
        images = draw_images(rng, shape, layout)
        moments = kernels.patch_moments(images)
        assert torch.equal(moments, Reference.patch_moments(images))
        for dtype in dtypes:
            convolution(kernels, rng, images, dtype)
            stem(kernels, rng, images, moments, dtype)


def convolution(kernels: Implementation, rng: np.random.Generator, images: Tensor, dtype: torch.dtype) -> None:
    n, channels, height, width = images.shape
    scale = [0.01 + 0.001 * c for c in range(channels)]
    weight, bias = draw_weight(rng, OUTPUTS, channels, dtype), torch.from_numpy(rng.standard_normal(OUTPUTS)).to(dtype)
    for channels_last, fast in itertools.product((False, True), (False, True)):
        arguments = images, weight, bias, scale, dtype, channels_last, fast
        check([kernels.conv2d(*arguments)], [Reference.conv2d(*arguments)], 1e-3 if fast else 1e-6, dtype)
    for layout in ("nchw", "channels_last", "strided"):
        grad = draw_grad(rng, (n, OUTPUTS, height // 2, width // 2), dtype, layout)
        arguments = grad, images, scale, dtype, True
        check(kernels.conv2d_backward(*arguments), Reference.conv2d_backward(*arguments), 1e-6, dtype)


def stem(
    kernels: Implementation, rng: np.random.Generator, images: Tensor, moments: Tensor, dtype: torch.dtype
) -> None:
    channels = images.shape[1]
    scale = [0.01 + 0.001 * c for c in range(channels)]
    weight = draw_weight(rng, OUTPUTS, channels, dtype)
    gamma, beta = (torch.from_numpy(rng.standard_normal(OUTPUTS)).to(dtype) for _ in range(2))
    running = torch.zeros(OUTPUTS, dtype=torch.float64), torch.ones(OUTPUTS, dtype=torch.float64)
    for given, statistics in ((moments, (None, None)), (None, running)):
        arguments = images, given, weight, gamma, beta, *statistics, 1e-5, scale, dtype
        for fast in (False, True):
            check(kernels.stem(*arguments, False, fast)[:1], Reference.stem(*arguments, False, fast)[:1],
                  1e-3 if fast else 1e-6, dtype)  # fmt: skip
        out, code, mean, var = kernels.stem(*arguments, True, False)
        for layout in ("channels_last", "strided"):
            grad = draw_grad(rng, tuple(out.shape), dtype, layout)
            backward = grad, images, code, given, weight, gamma, mean, var, 1e-5, scale
            check(kernels.stem_backward(*backward), Reference.stem_backward(*backward), 1e-5, dtype)


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
