"""How far the stem's results are off with weights of one and of two float16 terms, beside what rounding them does.

    python -m tests.npr_kernels.cuda.precision

The kernels run in the emulator, against float64. For each kind of input and dtype of the result a line says, for one
term and for two: the root mean square of the error before the result is rounded, and the largest error, where the
rounding to the dtype has 1, small results being held to the root mean square of their channel; and the percentage of
results that are not the nearest to the truth, for two terms also with codes.

  random           bytes and weights at random, statistics of the batch
  trained          the weights and statistics of the detector in the box, smooth images with noise
  beside a shift   as random, gamma a hundredth of beta
  slopes           as random, but brightness rises by one a pixel, down and to the right, and one pixel in 50 is one
                   brighter: means several times the deviations, so that batch norm subtracts what is nearly equal
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from detector.models import NPRDetector
from tests import emulator
from tests.npr_kernels.accuracy import unit_roundoff
from tests.npr_kernels.implementations import Reference

SHAPE = (4, 3, 64, 96)
OUTPUTS = 64
EPS = 1e-5


@dataclass
class Input:
    name: str
    images: Tensor
    weight: Tensor
    gamma: Tensor
    beta: Tensor
    channel_scale: list[float]
    statistics: tuple[Tensor, Tensor] | None = None  # or the batch's
    residual: str = "npr"

    def stem(self, implementation, out_dtype: torch.dtype, save: bool = False, fast: bool = False) -> Tensor:
        moments = Reference.patch_moments(self.images, self.residual) if self.statistics is None else None
        return implementation.stem(
            self.images, moments, self.weight, self.gamma, self.beta, *(self.statistics or (None, None)), EPS,
            self.channel_scale, out_dtype, save, fast, residual=self.residual,
        )[0]  # fmt: skip


def inputs(rng: np.random.Generator) -> Iterator[Input]:
    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape)).float()

    def rising(slope: np.ndarray, noise: np.ndarray) -> Tensor:  # [2, ...] down and to the right, and [N, C, H, W]
        rise = slope[0] * np.arange(SHAPE[2])[:, None] + slope[1] * np.arange(SHAPE[3])
        return torch.from_numpy((rise + noise).astype(np.uint8))

    scale = [2 / 3 / (255 * std) for std in (0.229, 0.224, 0.225)]
    random = torch.from_numpy(rng.integers(0, 256, SHAPE, dtype=np.uint8))
    weight, gamma, beta = normal(OUTPUTS, 3, 3, 3), normal(OUTPUTS), normal(OUTPUTS)
    yield Input("random", random, weight, gamma, beta, scale)
    model = NPRDetector.from_pretrained()
    bn, trained = model.bn1, model.conv1.weight.detach()
    both = {3: "npr", 6: "npr+haar"}[trained.shape[1]]
    smooth = rising(rng.uniform(0, 1, (2, *SHAPE[:2], 1, 1)), rng.integers(0, 9, SHAPE))
    yield Input(
        "trained", smooth, trained, bn.weight.detach(), bn.bias.detach(),
        scale + [s / 2 for s in scale] if both == "npr+haar" else scale, (bn.running_mean, bn.running_var), both,
    )  # fmt: skip
    yield Input("beside a shift", random, weight, gamma / 100, beta, scale)
    slopes = rising(np.ones(2), rng.uniform(size=SHAPE) < 1 / 50)
    yield Input("slopes", slopes, weight, gamma, beta, scale)


def main() -> None:
    kernels = emulator.implementation()
    print(f"{'input':16} {'dtype':9} {'one: rms':>9} {'largest':>8} {'off %':>6} {'two: rms':>9} {'largest':>8} "
          f"{'off %':>6} {'codes %':>8}")  # fmt: skip
    for each in inputs(np.random.default_rng(0)):
        truth = each.stem(Reference, torch.float64)
        exact = {fast: each.stem(kernels, torch.float32, fast=fast).double() for fast in (True, False)}
        for dtype in (torch.bfloat16, torch.float16):
            nearest = truth.to(dtype)
            own = (nearest.double() - truth).square().mean().sqrt()
            level = truth.square().mean((0, 2, 3), keepdim=True).sqrt()
            unit = unit_roundoff(dtype) * torch.maximum(truth, level).clamp_min(1e-30)
            line = f"{each.name:16} {str(dtype).removeprefix('torch.'):9}"
            for fast in (True, False):
                error = (exact[fast] - truth).abs()
                line += f" {error.square().mean().sqrt() / own:9.2g} {(error / unit).max():8.2g}"
                line += f" {share_off(each.stem(kernels, dtype, fast=fast), nearest):6.2f}"
            print(f"{line} {share_off(each.stem(kernels, dtype, save=True), nearest):8.2f}")


def share_off(result: Tensor, nearest: Tensor) -> float:
    return 100 * float((result != nearest).double().mean())


if __name__ == "__main__":
    main()
