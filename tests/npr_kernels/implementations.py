"""Implementations of the low-level ops, so that one test of an op runs over all of them.

npr_kernels/ops.py documents the ops and their signatures. Each implementation takes and gives CPU tensors. `Reference`
writes the ops down once more, as unfolding and matrix products in float64, independently of the kernels.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from npr_kernels.backends import native
from npr_kernels.backends import triton as triton_backend
from tests import needs

OPS = ("conv2d", "conv2d_backward", "patch_moments", "stem", "stem_backward")

CPU_INSTRUCTION_SETS = ("baseline", "avx2", "avx512", "avx512vnni")

NAMES = (
    "reference",
    *(f"cpu-{name}" for name in CPU_INSTRUCTION_SETS),
    "triton-interpreter",
    "cuda-emulator",
    "triton",
    "cuda",
)


class Implementation:
    """One way to run the ops; asking for an op that it lacks skips the test."""

    def __init__(self, name: str, ops: Any, device: str = "cpu") -> None:
        self.name = name
        self._ops = ops
        self._device = device

    @property
    def interpreted(self) -> bool:
        """Runs so slowly that tests give it small images only."""
        return self.name in ("triton-interpreter", "cuda-emulator")

    @property
    def largest_side(self) -> int:
        """Of images that tests draw."""
        return 24 if self.interpreted else 40

    def spare(self, case: bool) -> None:
        """Skips a case that others cover where Triton is interpreted, operation by operation, by Python."""
        if case and self.name == "triton-interpreter":
            pytest.skip("interpreted; other cases cover it")

    @property
    def sums_in_double(self) -> bool:
        """Adds up the gradients of the stem in double, whatever the dtypes: no cancellation takes their precision."""
        return self._on_the_cpu

    def tie(self, out_dtype: torch.dtype, channels: int) -> float:
        """What the stem may lose of a maximum, relative to it, where it also says of which position that is."""
        keys = "triton" in self.name or ("cuda" in self.name and channels == 3)
        return 2.0**-19 if keys and out_dtype.itemsize == 2 else 0.0

    @property
    def _on_the_cpu(self) -> bool:
        return self.name == "reference" or self.name.startswith("cpu-")

    def __getattr__(self, op: str) -> Callable:
        if op not in OPS:
            raise AttributeError(op)
        function = getattr(self._ops, op, None)
        if function is None:
            pytest.skip(f"{self.name} has no {op}")

        def call(*args: Any, residual: str = "npr") -> Any:
            options = {} if residual == "npr" else {"residual": residual}
            result = function(*(moved(a, self._device) if isinstance(a, Tensor) else a for a in args), **options)
            return result.cpu() if isinstance(result, Tensor) else tuple(r.cpu() for r in result)

        return call


def of_residual(ops: Any, residual: str) -> SimpleNamespace:
    """The ops of an implementation, or of `Reference`, for one residual."""
    return SimpleNamespace(**{name: partial(getattr(ops, name), residual=residual) for name in OPS})


def moved(tensor: Tensor, device: str) -> Tensor:
    """The tensor on a device with its strides and its place in memory, which ``Tensor.to`` may tidy up."""
    if device == tensor.device.type:
        return tensor
    memory = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage()).to(device)
    there = torch.empty(0, dtype=tensor.dtype, device=device)
    return there.set_(memory.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())


@contextmanager
def loaded(name: str) -> Iterator[Implementation]:
    """The named implementation, or a skip that says why it does not run here."""
    if name == "reference":
        yield Implementation(name, Reference)
    elif name.startswith("cpu-"):
        with instruction_set(name.removeprefix("cpu-")):
            yield Implementation(name, torch.ops.npr)
    elif name == "cuda-emulator":
        try:
            emulator = importlib.import_module("tests.emulator")
        except ModuleNotFoundError as error:
            pytest.skip(f"no CUDA emulator: {error}")
        yield Implementation(name, emulator.implementation())
    elif name == "cuda":
        reason = native.unavailable_reason("cuda")
        if reason:
            pytest.skip(reason)
        yield Implementation(name, torch.ops.npr, device="cuda")
    else:
        yield triton(name)


def triton(name: str) -> Implementation:
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted != (name == "triton-interpreter"):
        pytest.skip("Triton interprets in this process" if interpreted else "Triton compiles in this process")
    reason = triton_backend.unavailable_reason()
    if reason:
        pytest.skip(reason)
    return Implementation(name, triton_backend.implementation(), device="cpu" if interpreted else "cuda")


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """The CPU kernels compiled for one instruction set; the one in use before comes back."""
    needs.require_extension()
    if name not in native.extension.instruction_sets():
        pytest.skip(f"this processor or build has no {name}")
    before = native.extension.instruction_set()
    native.extension.select_instruction_set(name)
    try:
        yield
    finally:
        native.extension.select_instruction_set(before)


# ---- The ops in plain PyTorch, float64 ----------------------------------------------------------------

CLOSED = 9


def patches(images: Tensor, residual: str = "npr") -> Tensor:  # [N, K, rows, cols], float64
    """The residuals that each output of the convolution reads, k = (map, c, tap), without NPR's centres."""
    n, c, h, w = images.shape
    rows, cols = h // 2, w // 2
    pixels = images[:, :, : 2 * rows, : 2 * cols].double()
    anchors = pixels[:, :, ::2, ::2].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64).repeat(rows, cols)
    haar = F.avg_pool2d(pixels * checks, 2) * 4  # exact: integers, and a power of two
    unfolded = {
        "npr": lambda: F.unfold(pixels - anchors, kernel_size=3, padding=1, stride=2),
        "haar": lambda: F.unfold(haar, kernel_size=3, padding=1),
    }
    maps = torch.cat([unfolded[name]().view(n, 9 * c, rows, cols) for name in residual.split("+")], dim=1)
    return maps[:, alive(residual, c)]


def alive(residual: str, channels: int) -> Tensor:  # bool [Q 9]
    """Which positions of the weight's 3x3 kernels meet more than zeros: all but the centres that read NPR."""
    npr = torch.ones(channels, 9, dtype=torch.bool)
    npr[:, 4] = False
    haar = torch.ones(channels, 9, dtype=torch.bool)
    return torch.cat([{"npr": npr, "haar": haar}[name] for name in residual.split("+")]).flatten()


def folded(weight: Tensor, channel_scale: list[float], residual: str = "npr") -> Tensor:  # [O, K], float64
    scale = torch.tensor(channel_scale, dtype=torch.float64).view(-1, 1)
    channels = weight.shape[1] // len(residual.split("+"))
    return (weight.double().flatten(2) * scale).flatten(1)[:, alive(residual, channels)]


def centre(weight: Tensor, residual: str = "npr") -> Tensor:  # [O], float64
    """What the centre taps that read NPR add: zero times each, which is NaN where one is not finite."""
    channels = {"npr": weight.shape[1], "haar": 0, "npr+haar": weight.shape[1] // 2}[residual]
    return (weight.double()[:, :channels, 1, 1] * 0).sum(1)


def layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def convolve(images: Tensor, weight: Tensor, channel_scale: list[float], residual: str = "npr") -> Tensor:
    out = torch.einsum("ok,nkyx->noyx", folded(weight, channel_scale, residual), patches(images, residual))
    return out + centre(weight, residual).view(-1, 1, 1)


def convolved_magnitudes(images: Tensor, weight: Tensor, channel_scale: list[float], residual: str) -> Tensor:
    """The convolution's sums with every term's absolute value, of a weight without negative numbers."""
    return torch.einsum("ok,nkyx->noyx", folded(weight, channel_scale, residual), patches(images, residual).abs())


class Reference:
    @staticmethod
    def conv2d(images, weight, bias, channel_scale, out_dtype, channels_last, fast, residual="npr"):
        out = convolve(images, weight, channel_scale, residual)
        if bias is not None:
            out = out + bias.double().view(-1, 1, 1)
        return out.to(out_dtype).contiguous(memory_format=layout(channels_last))

    @staticmethod
    def conv2d_backward(grad, images, channel_scale, weight_dtype, bias, residual="npr"):
        per_tap = torch.einsum("noyx,nkyx->ok", grad.double(), patches(images, residual))
        grad_bias = grad.double().sum((0, 2, 3)) if bias else torch.zeros(0)
        return unfolded_gradient(per_tap, channel_scale, residual).to(weight_dtype), grad_bias.to(weight_dtype)

    @staticmethod
    def patch_moments(images, residual="npr"):
        d = patches(images, residual).movedim(1, -1).flatten(0, 2)  # [L, K]; float64 holds these integers exactly
        return torch.cat([torch.tensor([len(d)]), d.sum(0).long(), (d.T @ d).long().flatten()])

    @staticmethod
    def stem(
        images,
        moments,
        weight,
        bn_weight,
        bn_bias,
        mean,
        var,
        eps,
        channel_scale,
        out_dtype,
        save,
        fast,
        residual="npr",
    ):
        if moments is not None:
            mean, var = statistics(moments, folded(weight, channel_scale, residual))
            mean = mean + centre(weight, residual)
        mean, var = mean.double(), var.double()
        y = convolve(images, weight, channel_scale, residual)
        y = F.batch_norm(y, mean, var, as_double(bn_weight), as_double(bn_bias), False, 0.0, eps)
        out, index = F.max_pool2d(F.relu(y), 3, 2, 1, return_indices=True)
        code = torch.zeros(0, dtype=torch.uint8)
        if save:
            cols = y.shape[3]
            row = index // cols - 2 * torch.arange(out.shape[2]).view(-1, 1) + 1
            col = index % cols - 2 * torch.arange(out.shape[3]) + 1
            code = torch.where(out > 0, 3 * row + col, CLOSED).to(torch.uint8)
            code = code.contiguous(memory_format=torch.channels_last)
        return out.to(out_dtype).contiguous(memory_format=torch.channels_last), code, mean, var

    @staticmethod
    def stem_backward(grad, images, code, moments, weight, bn_weight, mean, var, eps, channel_scale, residual="npr"):
        w = folded(weight, channel_scale, residual)
        inv, mean = torch.rsqrt(var.double() + eps).view(-1, 1), mean.double().view(-1, 1)
        s, s0 = gathered_sums(grad, images, code, residual)
        s1 = inv * ((w * s).sum(1, keepdim=True) - mean * s0)
        if moments is not None:
            count, m1, m2 = split_moments(moments, w.shape[1])
            s = s - s0 * m1 / count - s1 * inv * (w @ m2 - mean * m1) / count
        gamma = torch.ones_like(inv) if bn_weight is None else bn_weight.double().view(-1, 1)
        grad_weight = unfolded_gradient(gamma * inv * s, channel_scale, residual)
        return tuple(g.to(weight.dtype) for g in (grad_weight, s1.view(-1), s0.view(-1)))


def gathered_sums(grad: Tensor, images: Tensor, code: Tensor, residual: str) -> tuple[Tensor, Tensor]:  # [O, K], [O, 1]
    """Sums of g d and of g over the open gates, d being the patch at the window's maximum."""
    d = F.pad(patches(images, residual), (1, 1, 1, 1))  # the pooling's windows start one row and column outside
    n, k = d.shape[:2]
    rows = 2 * torch.arange(code.shape[2]).view(-1, 1) + code.long() // 3
    cols = 2 * torch.arange(code.shape[3]) + code.long() % 3
    where = torch.where(code == CLOSED, 0, rows * d.shape[3] + cols).flatten(2)  # [N, O, Hp Wp]
    g = torch.where(code == CLOSED, 0, grad.double()).flatten(2)
    s = torch.zeros(code.shape[1], k, dtype=torch.float64)
    for image in range(n):
        s += torch.einsum("kop,op->ok", d[image].flatten(1)[:, where[image]], g[image])
    return s, g.sum((0, 2)).view(-1, 1)


def unfolded_gradient(per_tap: Tensor, channel_scale: list[float], residual: str) -> Tensor:  # [O, K] -> [O, Q, 3, 3]
    channels = len(channel_scale)
    grad = torch.zeros(per_tap.shape[0], 9 * channels, dtype=torch.float64)
    grad[:, alive(residual, channels // len(residual.split("+")))] = per_tap
    return grad.view(-1, channels, 3, 3) * torch.tensor(channel_scale, dtype=torch.float64).view(-1, 1, 1)


def split_moments(moments: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    return moments[0].double(), moments[1 : 1 + k].double(), moments[1 + k :].view(k, k).double()


def statistics(moments: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:  # [O], [O]
    """Mean and biased variance of each output channel, linear in the patches."""
    count, m1, m2 = split_moments(moments, weight.shape[1])
    covariance = m2 / count - torch.outer(m1, m1) / count**2
    return weight @ m1 / count, torch.einsum("ok,kl,ol->o", weight, covariance, weight)


def as_double(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.double()
