"""What is measured: each fused op, and the whole detector where it is trained, in every implementation.

A work prepares a call for one implementation, layout and dtype. `call(i)` runs on the images number i of a rotation,
and returns what it computed: results, or gradients. On a GPU the images of a rotation are together far larger than the
cache, so that each call finds them in memory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import npr_kernels as nk
from detector.bench import eager
from detector.models import NPRDetector
from npr_kernels.residuals import RESIDUALS

CHANNELS, OUTPUTS = 3, 64
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
FUSED = ("cuda", "triton", "cpu")
FAST = ", fast"
"""Behind the name of one of FUSED: with precision="fast"."""

MAX_AUTOTUNE = {"compile": "max-autotune-no-cudagraphs", "compile, CUDA graphs": "max-autotune"}

COMPILE = {"cpu": {"compile": "default"}, "cuda": MAX_AUTOTUNE}
"""Modes of torch.compile, by type of device and implementation."""

Call = Callable[[int], Any]


@dataclass(frozen=True)
class Case:
    """What a work is measured with. `implementation` is one of FUSED, or that and FAST, "eager", or one of COMPILE for
    the device."""

    implementation: str
    layout: str
    dtype: torch.dtype  # of results and gradients, by autocast where it is not float32; parameters are float32
    images: list[Tensor]  # the rotation: uint8 [N, 3, H, W], in the layout
    residual: str = "npr"  # others have no eager mode but the package's reference

    @property
    def ours(self) -> bool:
        """Whether the package's functions run, be it on its reference."""
        return self.fused or self.residual != "npr"

    @property
    def kernels(self) -> str:
        """The implementation, whatever its precision."""
        return self.implementation.removesuffix(FAST)

    @property
    def fused(self) -> bool:
        return self.kernels in FUSED

    @property
    def precision(self) -> str:
        return "fast" if self.implementation.endswith(FAST) else "full"

    @property
    def device(self) -> torch.device:
        return self.images[0].device

    def image(self, i: int) -> Tensor:
        return self.images[i % len(self.images)]

    def backend(self) -> nk.backend:
        return nk.backend(self.kernels if self.fused else "reference")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def placed(self, module: nn.Module) -> nn.Module:
        return module.to(self.device, memory_format=LAYOUTS[self.layout])  # type: ignore[call-overload]

    def compiled(self, function: Callable) -> Callable:
        mode = COMPILE[self.device.type].get(self.implementation)
        return torch.compile(function, mode=mode, dynamic=False) if mode else function

    def grads(self, function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Gradients of the results of `function`, which should not be compiled: it runs once, without autograd."""
        with torch.no_grad(), self.autocast():
            return [random_like(function(images), seed) for seed, images in enumerate(self.images)]


def random_like(result: Tensor, seed: int) -> Tensor:
    """Of its layout, and of values that do not depend on it, nor but for their rounding on its dtype."""
    generator = torch.Generator(result.device).manual_seed(seed)
    values = torch.randn(result.shape, device=result.device, generator=generator)
    return torch.empty_like(result).copy_(values)


class Work(NamedTuple):
    op: str
    name: str
    dtype: torch.dtype
    bytes: Callable[[int, int, int], int]  # least traffic for an image of H, W and results of a size; 0: not known
    written: Callable[[int, int, int], int]  # those of it that are written
    multiply_adds: Callable[[int, int], float]  # likewise, of convolutions as they are defined
    prepare: Callable[[Case], Call]
    sums: bool = False  # whether results are sums over the images, such as gradients
    truth: Callable[[Case], Call] | None = None  # what prepares the same for eager mode; None: `prepare` does
    residual: str = "npr"

    @property
    def title(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return ", ".join([self.name, *([self.residual] if self.residual != "npr" else []), dtype])


def draw_weight(case: Case) -> Tensor:
    torch.manual_seed(0)
    channels = CHANNELS * len(RESIDUALS[case.residual])
    return torch.randn(OUTPUTS, channels, 3, 3, device=case.device).contiguous(memory_format=LAYOUTS[case.layout])


def _convolution(case: Case) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """The function of images and weight, not compiled, and the weight."""
    weight = draw_weight(case).requires_grad_()
    if case.ours:
        return functools.partial(nk.npr_conv2d, residual=case.residual, precision=case.precision), weight
    mean, std = eager.MEAN.to(case.device), eager.STD.to(case.device)
    return lambda images, weight: eager.conv2d(images, weight, mean, std), weight


def conv2d_forward(case: Case) -> Call:
    function, weight = _convolution(case)
    function = case.compiled(function)

    def call(i: int) -> Tensor:
        with torch.no_grad(), case.autocast():
            return function(case.image(i), weight)

    return call


def conv2d_weight_gradient(case: Case) -> Call:
    """The backward pass alone, of graphs that are kept."""
    function, weight = _convolution(case)
    with case.autocast():
        outs = [function(images, weight) for images in case.images]
    grads = [random_like(out, seed) for seed, out in enumerate(outs)]

    def call(i: int) -> Tensor:
        i %= len(outs)
        (grad,) = torch.autograd.grad(outs[i], weight, grads[i], retain_graph=True)
        return grad

    return call


def conv2d_training(case: Case) -> Call:
    function, weight = _convolution(case)
    grads = case.grads(lambda images: function(images, weight))
    function = case.compiled(function)

    def call(i: int) -> Tensor | None:
        weight.grad = None
        with case.autocast():
            out = function(case.image(i), weight)
        out.backward(grads[i % len(grads)])
        return weight.grad

    return call


def draw_stem(case: Case) -> nn.Module:
    torch.manual_seed(0)
    if not case.ours:
        return case.placed(eager.Stem(OUTPUTS))
    return case.placed(nk.NPRStem(OUTPUTS, residual=case.residual, precision=case.precision))


def stem_inference(case: Case) -> Call:
    return _inference(case, draw_stem(case))


def _inference(case: Case, module: nn.Module) -> Call:
    function = case.compiled(module.eval())

    def call(i: int) -> Tensor:
        with torch.no_grad(), case.autocast():
            return function(case.image(i))

    return call


def stem_training(case: Case) -> Call:
    module = draw_stem(case).train()
    grads = case.grads(module)
    function = case.compiled(module)

    def call(i: int) -> list[Tensor | None]:
        module.zero_grad()
        with case.autocast():
            out = function(case.image(i))
        out.backward(grads[i % len(grads)])
        return [parameter.grad for parameter in module.parameters()]

    return call


def _detector(case: Case) -> nn.Module:
    torch.manual_seed(0)
    model = NPRDetector()
    return case.placed(model if case.fused else eager.Original(model))


def detector_inference(case: Case) -> Call:
    return _inference(case, _detector(case))


def detector_folded(case: Case) -> Call:
    """As commands that score run it: batch norms folded in and, on a GPU, fused by cuDNN and in a CUDA graph."""
    lower = case.device.type == "cuda" and case.dtype == torch.bfloat16
    model = _detector(case).eval()
    assert isinstance(model, NPRDetector)
    folded = model.for_inference("bfloat16" if lower else None)

    def call(i: int) -> Tensor:
        with torch.no_grad():
            return folded(case.image(i))

    return call


def detector_training(case: Case) -> Call:
    model = _detector(case).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    labels = (torch.arange(len(case.images[0]), device=case.device) % 2).float().view(-1, 1)
    function = case.compiled(model)

    def call(i: int) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with case.autocast():
            logits = function(case.image(i))
        loss = F.binary_cross_entropy_with_logits(logits.float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


# ---- Least traffic of an image, in bytes: what is read and written once -------------------------------------------


def _image(height: int, width: int) -> int:
    return CHANNELS * height * width


def _map(height: int, width: int) -> int:
    """Values of the convolution's result."""
    return OUTPUTS * (height // 2) * (width // 2)


def _pooled_size(height: int, width: int) -> tuple[int, int]:
    return (height // 2 + 1) // 2, (width // 2 + 1) // 2


def _pooled(height: int, width: int) -> int:
    rows, columns = _pooled_size(height, width)
    return OUTPUTS * rows * columns


def image_and_map(height: int, width: int, size: int) -> int:
    return _image(height, width) + _map(height, width) * size


def image_and_map_twice(height: int, width: int, size: int) -> int:
    return 2 * image_and_map(height, width, size)


def image_and_pooled(height: int, width: int, size: int) -> int:
    return _image(height, width) + _pooled(height, width) * size


def stem_training_bytes(height: int, width: int, size: int) -> int:
    """The image for the moments, forward and backward; the pooled map and its gradient; the codes out and in."""
    return 3 * _image(height, width) + 2 * _pooled(height, width) * (size + 1)


def image_alone(height: int, width: int, size: int) -> int:
    """The gradients of parameters do not count."""
    return _image(height, width)


def image_and_codes(height: int, width: int, size: int) -> int:
    """The image and one pooled map with its codes."""
    return _image(height, width) + _pooled(height, width) * (size + 1)


def map_written(height: int, width: int, size: int) -> int:
    return _map(height, width) * size


def pooled_written(height: int, width: int, size: int) -> int:
    return _pooled(height, width) * size


def codes_written(height: int, width: int, size: int) -> int:
    return _pooled(height, width) * (size + 1)


def not_known(height: int, width: int, size: int) -> int:
    """Or nothing."""
    return 0


# ---- Multiply-adds of an image ------------------------------------------------------------------------------------

TAPS = 8 * CHANNELS  # of the convolution: its centre falls on anchors, whose residual is zero


def convolution(height: int, width: int) -> float:
    return TAPS * _map(height, width)


def convolution_twice(height: int, width: int) -> float:
    return 2 * convolution(height, width)


def stem_in_training(height: int, width: int) -> float:
    """Forward, the moments, which are products of TAPS integers with each other, and sums over the patches of a quarter
    of the positions."""
    return convolution(height, width) * (1 + TAPS / 2 / OUTPUTS + 1 / 4)


@functools.cache
def blocks(height: int, width: int) -> float:
    """Of the residual blocks."""
    with torch.device("meta"):
        model = NPRDetector()
        pooled = torch.empty(1, OUTPUTS, *_pooled_size(height, width))
    with FlopCounterMode(display=False) as counter:
        model.layer2(model.layer1(pooled))
    return counter.get_total_flops() / 2


def network(height: int, width: int) -> float:
    """Of the whole detector; the classifier's few do not count."""
    return convolution(height, width) + blocks(height, width)


def network_in_training(height: int, width: int) -> float:
    """The blocks' backward pass computes gradients of their inputs, and of their weights."""
    return stem_in_training(height, width) + 3 * blocks(height, width)


BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32
FOLDED = "inference, folded"


def _in(dtype: torch.dtype) -> tuple[Work, ...]:
    return (
        Work("npr_conv2d", "forward", dtype, image_and_map, map_written, convolution, conv2d_forward),
        Work("npr_stem", "inference", dtype, image_and_pooled, pooled_written, convolution, stem_inference),
        Work("npr_stem", "training, forward + backward", dtype, stem_training_bytes, codes_written, stem_in_training,
             stem_training, sums=True),
        Work("npr_conv2d", "weight gradient", dtype, image_and_map, not_known, convolution, conv2d_weight_gradient,
             sums=True),
        Work("npr_conv2d", "forward + weight gradient", dtype, image_and_map_twice, map_written, convolution_twice,
             conv2d_training, sums=True),
        Work("NPRDetector", "inference", dtype, not_known, not_known, network, detector_inference),
        Work("NPRDetector", "training step", dtype, not_known, not_known, network_in_training, detector_training,
             sums=True),
    )  # fmt: skip


CPU_WORKS = _in(FLOAT32)
HAAR_WORKS = tuple(work._replace(residual=residual) for residual in ("haar", "npr+haar") for work in _in(BFLOAT16)[:3])
FOLDED_WORKS = tuple(  # which nobody else has
    Work("NPRDetector", FOLDED, dtype, not_known, not_known, network, detector_folded, truth=detector_inference)
    for dtype in (BFLOAT16, FLOAT32)
)
WORKS = (*_in(BFLOAT16)[:5], *CPU_WORKS[:5], *_in(BFLOAT16)[5:], *FOLDED_WORKS, *HAAR_WORKS)
"""Those measured on a GPU."""
