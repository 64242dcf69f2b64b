"""The low-level ops by themselves: one operation of the kernels, without autograd and modules, all inputs at hand.

On a GPU an output's memory comes from torch's cache, which costs the device nothing. Each is held to what the works of
:mod:`detector.bench.works` compute in eager mode.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from detector.bench import works
from detector.bench.works import Call, Case, Work, random_like
from npr_kernels import IMAGENET_STD, NPR_SCALE, reference
from npr_kernels.residuals import RESIDUALS, taps

OP = "kernel"


def low_level(case: Case, name: str) -> Callable[..., Any]:
    op = getattr(torch.ops.npr, f"triton_{name}" if case.kernels == "triton" else name)
    return op if case.residual == "npr" else functools.partial(op, residual=case.residual)


def channel_scale(case: Case) -> list[float]:
    return [each.gain * NPR_SCALE / (255 * std) for each in RESIDUALS[case.residual] for std in IMAGENET_STD]


def convolve(case: Case, weight: Tensor) -> Call:
    op, scale = low_level(case, "conv2d"), channel_scale(case)
    options = scale, case.dtype, case.layout == "channels_last", case.precision == "fast"
    return lambda i: op(case.image(i), weight, None, *options)


def conv2d(case: Case) -> Call:
    return convolve(case, works.draw_weight(case))


def conv2d_backward(case: Case) -> Call:
    op, forward, scale = low_level(case, "conv2d_backward"), conv2d(case), channel_scale(case)
    grads = [random_like(forward(i), i) for i in range(len(case.images))]
    return lambda i: op(grads[i % len(grads)], case.image(i), scale, torch.float32, False)[0]


def patch_moments(case: Case) -> Call:
    op = low_level(case, "patch_moments")
    return lambda i: op(case.image(i))


def moments_by_definition(case: Case) -> Call:
    """Of integers, which float64 adds up exactly; image by image, as patches take much memory."""

    def call(i: int) -> Tensor:
        length = taps(case.residual) * works.CHANNELS
        total = torch.zeros(1 + length + length**2, dtype=torch.int64, device=case.device)
        for image in case.image(i).split(1):
            d = torch.cat([patches(image, name) for name in case.residual.split("+")])
            count = torch.tensor([d.shape[1]], device=case.device)
            total += torch.cat([count, d.sum(1).long(), (d @ d.T).long().flatten()])
        return total

    return call


def patches(image: Tensor, residual: str) -> Tensor:  # [1, C, H, W] -> [taps, positions], float64
    if residual == "haar":
        return F.unfold(reference.haar_residual(image).double(), 3, padding=1)[0]
    unfolded = F.unfold(reference.npr_residual(image).double(), 3, padding=1, stride=2)[0]
    return unfolded[[k for k in range(len(unfolded)) if k % 9 != 4]]  # centres are zero


class Stem:
    """The parameters of a stem, and its op as a function of images and their moments."""

    def __init__(self, case: Case) -> None:
        self._op, self._case, self.scale = low_level(case, "stem"), case, channel_scale(case)
        module = works.draw_stem(case)
        self.weight, bn = module.conv1.weight.detach(), module.bn1
        self.gamma, self.beta, self.eps = bn.weight.detach(), bn.bias.detach(), bn.eps
        self._running = bn.running_mean, bn.running_var

    def __call__(self, images: Tensor, moments: Tensor | None, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        statistics = self._running if moments is None else (None, None)
        return self._op(
            images, moments, self.weight, self.gamma, self.beta, *statistics, self.eps, self.scale, self._case.dtype,
            save, self._case.precision == "fast",
        )  # fmt: skip


def stem(case: Case) -> Call:
    of = Stem(case)
    return lambda i: of(case.image(i), None, False)[0]


def stem_with_codes(case: Case) -> Call:
    of, moments = Stem(case), patch_moments(case)
    given = [moments(i) for i in range(len(case.images))]
    return lambda i: of(case.image(i), given[i % len(given)], True)[0]


def stem_in_training_mode(case: Case) -> Call:
    """As a module gives it, for images of fresh running statistics."""
    module = works.draw_stem(case).train()

    def call(i: int) -> Tensor:
        with torch.no_grad(), case.autocast():
            return module(case.image(i))

    return call


def stem_backward(case: Case) -> Call:
    of, moments, op = Stem(case), patch_moments(case), low_level(case, "stem_backward")
    given = [moments(i) for i in range(len(case.images))]
    saved = [of(images, given[i], True) for i, images in enumerate(case.images)]
    grads = [random_like(out, i) for i, (out, *_) in enumerate(saved)]

    def call(i: int) -> tuple[Tensor, Tensor, Tensor]:
        i %= len(saved)
        _, code, mean, var = saved[i]
        return op(
            grads[i], case.image(i), code, given[i], of.weight, of.gamma, mean, var, of.eps, of.scale
        )  # fmt: skip

    return call


def of_dtype(dtype: torch.dtype) -> tuple[Work, ...]:
    convolution, nothing = works.convolution, works.not_known
    image_and_map, image_and_codes = works.image_and_map, works.image_and_codes
    forward = works.conv2d_forward, works.conv2d_weight_gradient, works.stem_inference, works.stem_training
    conv2d_truth, gradient_truth, stem_truth, training_truth = forward
    return (
        Work(OP, "conv2d", dtype, image_and_map, works.map_written, convolution, conv2d, truth=conv2d_truth),
        Work(OP, "stem", dtype, works.image_and_pooled, works.pooled_written, convolution, stem, truth=stem_truth),
        Work(OP, "stem with codes", dtype, image_and_codes, works.codes_written, convolution, stem_with_codes,
             truth=stem_in_training_mode),
        Work(OP, "stem_backward", dtype, image_and_codes, nothing, convolution, stem_backward, sums=True,
             truth=training_truth),
        Work(OP, "conv2d_backward", dtype, image_and_map, nothing, convolution, conv2d_backward, sums=True,
             truth=gradient_truth),
    )  # fmt: skip


MOMENTS = Work(
    OP, "patch_moments", torch.uint8, works.image_alone, works.not_known, works.convolution, patch_moments, sums=True,
    truth=moments_by_definition,
)  # fmt: skip

WITH_PRECISION = ("conv2d", "stem", "stem with codes")
"""Those that precision="fast" changes."""

HAAR = tuple(
    work._replace(residual=residual)
    for residual in ("haar", "npr+haar")
    for work in (*of_dtype(torch.bfloat16), MOMENTS)
)
KERNELS = (*of_dtype(torch.bfloat16), MOMENTS, *of_dtype(torch.float32), *HAAR)
SMOKE = (*KERNELS, *of_dtype(torch.float16))
