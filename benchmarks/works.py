"""What is measured on a GPU: each fused op and whole detector, in every implementation.

A work prepares a call for one implementation, layout and dtype. `call(i)` runs on the images number i of a rotation,
which are together far larger than the cache, so that each call finds them in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import npr_kernels as nk
from benchmarks import eager
from detector.models import NPRDetector

CHANNELS, OUTPUTS = 3, 64
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
FUSED = ("cuda", "triton", "cpu")
MAX_AUTOTUNE = {"compile": "max-autotune-no-cudagraphs", "compile, CUDA graphs": "max-autotune"}

Call = Callable[[int], Any]


@dataclass(frozen=True)
class Case:
    """What a work is measured with. `implementation` is one of FUSED, "eager", or one of MAX_AUTOTUNE."""

    implementation: str
    layout: str
    dtype: torch.dtype  # of results and gradients, by autocast where it is not float32; parameters are float32
    images: list[Tensor]  # the rotation: uint8 [N, 3, H, W], in the layout

    @property
    def fused(self) -> bool:
        return self.implementation in FUSED

    @property
    def device(self) -> torch.device:
        return self.images[0].device

    def image(self, i: int) -> Tensor:
        return self.images[i % len(self.images)]

    def backend(self) -> nk.backend:
        return nk.backend(self.implementation if self.fused else "reference")

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def placed(self, module: nn.Module) -> nn.Module:
        return module.to(self.device, memory_format=LAYOUTS[self.layout])

    def compiled(self, function: Callable) -> Callable:
        mode = MAX_AUTOTUNE.get(self.implementation)
        return torch.compile(function, mode=mode, dynamic=False) if mode else function

    def grads(self, function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Gradients of the results of `function`, which should not be compiled: it runs once, without autograd."""
        with torch.no_grad(), self.autocast():
            return [torch.randn_like(function(images)) for images in self.images]


class Work(NamedTuple):
    op: str
    name: str
    dtype: torch.dtype
    bytes: Callable[[int, int, int], int]  # least traffic for an image of H, W and results of a size; 0: not known
    prepare: Callable[[Case], Call]

    @property
    def title(self) -> str:
        return f"{self.name}, {str(self.dtype).removeprefix('torch.')}"


def _convolution(case: Case) -> tuple[Callable[[Tensor, Tensor], Tensor], Tensor]:
    """The function of images and weight, not compiled, and the weight."""
    torch.manual_seed(0)
    weight = torch.randn(OUTPUTS, CHANNELS, 3, 3, device=case.device).contiguous(memory_format=LAYOUTS[case.layout])
    weight.requires_grad_()
    if case.fused:
        return nk.npr_conv2d, weight
    mean, std = eager.MEAN.to(case.device), eager.STD.to(case.device)
    return lambda images, weight: eager.conv2d(images, weight, mean, std), weight


def conv2d_forward(case: Case) -> Call:
    function, weight = _convolution(case)
    function = case.compiled(function)

    def call(i: int) -> None:
        with torch.no_grad(), case.autocast():
            function(case.image(i), weight)

    return call


def conv2d_weight_gradient(case: Case) -> Call:
    """The backward pass alone, of graphs that are kept."""
    function, weight = _convolution(case)
    with case.autocast():
        outs = [function(images, weight) for images in case.images]
    grads = [torch.randn_like(out) for out in outs]

    def call(i: int) -> None:
        i %= len(outs)
        torch.autograd.grad(outs[i], weight, grads[i], retain_graph=True)

    return call


def conv2d_training(case: Case) -> Call:
    function, weight = _convolution(case)
    grads = case.grads(lambda images: function(images, weight))
    function = case.compiled(function)

    def call(i: int) -> None:
        weight.grad = None
        with case.autocast():
            out = function(case.image(i), weight)
        out.backward(grads[i % len(grads)])

    return call


def _stem(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.placed(nk.NPRStem(OUTPUTS) if case.fused else eager.Stem(OUTPUTS))


def stem_inference(case: Case) -> Call:
    return _inference(case, _stem(case))


def _inference(case: Case, module: nn.Module) -> Call:
    function = case.compiled(module.eval())

    def call(i: int) -> None:
        with torch.no_grad(), case.autocast():
            function(case.image(i))

    return call


def stem_training(case: Case) -> Call:
    module = _stem(case).train()
    grads = case.grads(module)
    function = case.compiled(module)

    def call(i: int) -> None:
        module.zero_grad()
        with case.autocast():
            out = function(case.image(i))
        out.backward(grads[i % len(grads)])

    return call


def _detector(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.placed(NPRDetector())


def detector_inference(case: Case) -> Call:
    return _inference(case, _detector(case))


def detector_training(case: Case) -> Call:
    model = _detector(case).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    labels = (torch.arange(len(case.images[0]), device=case.device) % 2).float().view(-1, 1)

    def call(i: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        with case.autocast():
            logits = model(case.image(i))
        F.binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimizer.step()

    return call


# ---- Least traffic of an image, in bytes: what is read and written once -------------------------------------------


def _image(height: int, width: int) -> int:
    return CHANNELS * height * width


def _map(height: int, width: int) -> int:
    """Values of the convolution's result."""
    return OUTPUTS * (height // 2) * (width // 2)


def _pooled(height: int, width: int) -> int:
    return OUTPUTS * ((height // 2 + 1) // 2) * ((width // 2 + 1) // 2)


def image_and_map(height: int, width: int, size: int) -> int:
    return _image(height, width) + _map(height, width) * size


def image_and_map_twice(height: int, width: int, size: int) -> int:
    return 2 * image_and_map(height, width, size)


def image_and_pooled(height: int, width: int, size: int) -> int:
    return _image(height, width) + _pooled(height, width) * size


def stem_training_bytes(height: int, width: int, size: int) -> int:
    """The image for the moments, forward and backward; the pooled map and its gradient; the codes out and in."""
    return 3 * _image(height, width) + 2 * _pooled(height, width) * (size + 1)


def not_known(height: int, width: int, size: int) -> int:
    return 0


BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32

WORKS = (
    Work("npr_conv2d", "forward", BFLOAT16, image_and_map, conv2d_forward),
    Work("npr_stem", "inference", BFLOAT16, image_and_pooled, stem_inference),
    Work("npr_stem", "training, forward + backward", BFLOAT16, stem_training_bytes, stem_training),
    Work("npr_conv2d", "weight gradient", BFLOAT16, image_and_map, conv2d_weight_gradient),
    Work("npr_conv2d", "forward + weight gradient", BFLOAT16, image_and_map_twice, conv2d_training),
    Work("npr_conv2d", "forward", FLOAT32, image_and_map, conv2d_forward),
    Work("npr_stem", "inference", FLOAT32, image_and_pooled, stem_inference),
    Work("npr_stem", "training, forward + backward", FLOAT32, stem_training_bytes, stem_training),
    Work("npr_conv2d", "weight gradient", FLOAT32, image_and_map, conv2d_weight_gradient),
    Work("npr_conv2d", "forward + weight gradient", FLOAT32, image_and_map_twice, conv2d_training),
    Work("NPRDetector", "inference", BFLOAT16, not_known, detector_inference),
    Work("NPRDetector", "training step", BFLOAT16, not_known, detector_training),
)
