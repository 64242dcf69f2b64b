"""The CUDA kernels on the host: csrc/cuda compiled against the emulator, and the low-level ops on CPU tensors.

``implementation()`` gives the ops of :mod:`npr_kernels.ops`; each call checks every memory access of its kernels and
that they wrote all of their outputs (include/emulator.h). Needs a C++20 compiler, as ``CXX`` or ``g++``.
"""

from __future__ import annotations

import ctypes
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from npr_kernels.residuals import RESIDUALS, taps
from tests.emulator.compilation import ROOT, cached, run, run_all

HERE = Path(__file__).parent

MULTIPROCESSORS = 3  # of the emulated device, unless a test sets another number: fewer than most tests have tiles

FLAGS = ["-std=c++20", "-g", "-fPIC", "-fno-gnu-unique", "-Wall", "-Wno-unknown-pragmas"]
INCLUDES = [f"-I{ROOT / 'csrc'}", f"-I{HERE / 'include'}"]
# The sanitizer only instruments; runtime.cpp is what it calls, so its own library is not linked.
INSTRUMENTED = ["-O2", "-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"]


class EmulatorError(RuntimeError):
    """What the emulator found wrong with a kernel."""


def compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def build(kernels: Iterable[Path], *interfaces: Path) -> ctypes.CDLL:
    """The library of these kernels (.cu) and their C interfaces."""
    cxx = compiler()
    assert cxx is not None
    sources = [(path, INSTRUMENTED) for path in sorted(kernels)]
    sources += [(path, ["-O2"]) for path in (*interfaces, HERE / "runtime.cpp")]
    headers = [p for folder in (ROOT / "csrc", HERE) for p in sorted(folder.rglob("*")) if p.suffix in (".h", ".cuh")]

    def make(folder: Path) -> None:
        objects = [str(folder / f"{path.stem}.o") for path, _ in sources]
        run_all(
            [
                [cxx, *FLAGS, *flags, *INCLUDES, "-x", "c++", "-c", str(path), "-o", target]
                for (path, flags), target in zip(sources, objects, strict=True)
            ]
        )
        run([cxx, "-shared", "-Wl,-Bsymbolic", *objects, "-o", str(folder / "emulated.so")])

    files = [*headers, *(path for path, _ in sources)]
    return ctypes.CDLL(str(cached("emulator", files, (cxx, FLAGS, INSTRUMENTED), make) / "emulated.so"))


def locate(message: str, library: ctypes.CDLL) -> str:
    """The emulator's message with the address of the access in the library as function, file and line."""

    def location(match: re.Match[str]) -> str:
        if shutil.which("addr2line") is None:
            return match[0]
        command = ["addr2line", "-Cfsip", "-e", library._name, match[1]]
        found = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        return f"\n  {found.replace(chr(10), chr(10) + '  ')}"

    return re.sub(r"\[\+(0x[0-9a-f]+)\]", location, message)


# ---- The structures of csrc/cuda/kernels.h ---------------------------------------------------------

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3}

Pointer = ctypes.c_void_p
Size = ctypes.c_int64
Type = ctypes.c_int
Flag = ctypes.c_bool


class Array(ctypes.Structure):
    _fields_ = (("data", Pointer), ("type", Type))


class Images(ctypes.Structure):
    _fields_ = (("data", Pointer), ("shape", Size * 4), ("strides", Size * 4))


class Reading(ctypes.Structure):
    _fields_ = (("images", Images), ("residual", Size))


class Gradient(ctypes.Structure):
    _fields_ = (("data", Pointer), ("type", Type), ("strides", Size * 4))


class ConvForward(ctypes.Structure):
    _fields_ = (
        ("reading", Reading),
        ("outputs", Size),
        ("weight", Array),
        ("bias", Array),
        ("channel_scale", Pointer),
        ("out", Pointer),
        ("type", Type),
        ("channels_last", Flag),
        ("fast", Flag),
    )


class ConvBackward(ctypes.Structure):
    _fields_ = (
        ("reading", Reading),
        ("outputs", Size),
        ("grad", Gradient),
        ("channel_scale", Pointer),
        ("grad_weight", Pointer),
        ("grad_bias", Pointer),
        ("type", Type),
    )


class Moments(ctypes.Structure):
    _fields_ = (("reading", Reading), ("moments", Pointer))


class StemForward(ctypes.Structure):
    _fields_ = (
        ("reading", Reading),
        ("outputs", Size),
        ("moments", Pointer),
        ("weight", Array),
        ("bn_weight", Array),
        ("bn_bias", Array),
        ("mean", Array),
        ("var", Array),
        ("eps", ctypes.c_double),
        ("channel_scale", Pointer),
        ("out", Pointer),
        ("type", Type),
        ("code", Pointer),
        ("used_mean", Pointer),
        ("used_var", Pointer),
        ("fast", Flag),
    )


class StemBackward(ctypes.Structure):
    _fields_ = (
        ("reading", Reading),
        ("outputs", Size),
        ("grad", Gradient),
        ("code", Pointer),
        ("moments", Pointer),
        ("weight", Array),
        ("bn_weight", Array),
        ("mean", Pointer),
        ("var", Pointer),
        ("eps", ctypes.c_double),
        ("channel_scale", Pointer),
        ("grad_weight", Pointer),
        ("grad_bn_weight", Pointer),
        ("grad_bn_bias", Pointer),
        ("type", Type),
    )


# ---- Calls -----------------------------------------------------------------------------------------


class Session:
    """The buffers of one call: what the kernels may read, and what they must write."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        self._alive: list[object] = []  # tensors and arrays that the structures point to
        self._outputs: list[Tensor] = []
        library.emulator_clear()

    def pointer(self, tensor: Tensor | None, output: bool = False) -> Pointer:
        """The tensor's address, after registering the bytes from its first to its last element."""
        if tensor is None or tensor.numel() == 0:
            return Pointer(None)
        self._alive.append(tensor)
        size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
        self._library.emulator_add_buffer(
            Pointer(tensor.data_ptr()), ctypes.c_size_t(size * tensor.element_size()), Flag(output)
        )
        return Pointer(tensor.data_ptr())

    def output(self, tensor: Tensor | None) -> Pointer:
        if tensor is not None:
            self._outputs.append(tensor)
        return self.pointer(tensor, output=True)

    def array(self, tensor: Tensor | None) -> Array:
        if tensor is None:
            return Array(None, 0)
        tensor = tensor.contiguous()
        return Array(self.pointer(tensor), TYPES[tensor.dtype])

    def images(self, images: Tensor) -> Images:
        return Images(self.pointer(images), (Size * 4)(*images.shape), (Size * 4)(*images.stride()))

    def reading(self, images: Tensor, residual: str) -> Reading:
        return Reading(self.images(images), list(RESIDUALS).index(residual))

    def gradient(self, grad: Tensor) -> Gradient:
        return Gradient(self.pointer(grad), TYPES[grad.dtype], (Size * 4)(*grad.stride()))

    def scale(self, values: Sequence[float]) -> Pointer:
        array = (ctypes.c_double * len(values))(*values)
        self._alive.append(array)
        return ctypes.cast(array, Pointer)

    def run(self, operation: str, parameters: ctypes.Structure) -> None:
        workspace_bytes = getattr(self._library, f"emulator_{operation}_workspace")
        workspace_bytes.restype = Size
        launch = getattr(self._library, f"emulator_{operation}")
        launch.restype = ctypes.c_char_p
        missing_store = self._library.emulator_missing_store
        missing_store.restype = ctypes.c_ssize_t

        multiprocessors = self._multiprocessors()
        # Two 8-byte words more than needed, so that the workspace can begin at a multiple of 16.
        words = -(-workspace_bytes(ctypes.byref(parameters), multiprocessors) // 8)
        workspace = torch.empty(words + 2, dtype=torch.int64)
        workspace = workspace[workspace.data_ptr() % 16 // 8 :][:words]
        message = launch(ctypes.byref(parameters), multiprocessors, self.pointer(workspace, output=True))
        if message is not None:
            raise EmulatorError(locate(message.decode(), self._library))
        for tensor in self._outputs:
            byte = missing_store(Pointer(tensor.data_ptr())) if tensor.numel() else -1
            if byte >= 0:
                raise EmulatorError(f"{operation}: missing store: nobody wrote byte {byte} of {list(tensor.shape)}")
        self._library.emulator_clear()

    def _multiprocessors(self) -> ctypes.c_int:
        current_device = self._library.emulator_current_device
        current_device.restype = ctypes.c_char_p
        count = ctypes.c_int()
        message = current_device(ctypes.byref(count))
        if message is not None:
            raise EmulatorError(message.decode())
        return count


@functools.cache
def built_kernels() -> ctypes.CDLL | RuntimeError:
    try:
        return build((ROOT / "csrc" / "cuda").glob("*.cu"), HERE / "operations.cpp", HERE / "buffers.cpp")
    except RuntimeError as error:
        return error


def kernels(multiprocessors: int = MULTIPROCESSORS) -> ctypes.CDLL:
    """csrc/cuda on a device of so many multiprocessors, until the next call."""
    library = built_kernels()
    if isinstance(library, RuntimeError):
        raise library
    library.emulator_set_multiprocessors(multiprocessors)
    return library


def conv2d(images, weight, bias, channel_scale, out_dtype, channels_last, fast, residual="npr"):
    session = Session(kernels())
    n, _, h, w = images.shape
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty(n, len(weight), h // 2, w // 2, dtype=out_dtype, memory_format=layout)
    session.run(
        "conv_forward",
        ConvForward(
            reading=session.reading(images, residual),
            outputs=len(weight),
            weight=session.array(weight),
            bias=session.array(bias),
            channel_scale=session.scale(channel_scale),
            out=session.output(out),
            type=TYPES[out_dtype],
            channels_last=channels_last,
            fast=fast,
        ),
    )
    return out


def conv2d_backward(grad, images, channel_scale, weight_dtype, bias, residual="npr"):
    session = Session(kernels())
    outputs, channels = grad.shape[1], images.shape[1] * len(RESIDUALS[residual])
    grad_weight = torch.empty(outputs, channels, 3, 3, dtype=weight_dtype)
    grad_bias = torch.empty(outputs if bias else 0, dtype=weight_dtype)
    session.run(
        "conv_backward",
        ConvBackward(
            reading=session.reading(images, residual),
            outputs=outputs,
            grad=session.gradient(grad),
            channel_scale=session.scale(channel_scale),
            grad_weight=session.output(grad_weight),
            grad_bias=session.output(grad_bias),
            type=TYPES[weight_dtype],
        ),
    )
    return grad_weight, grad_bias


def patch_moments(images, multiprocessors=MULTIPROCESSORS, residual="npr"):
    session = Session(kernels(multiprocessors))
    length = taps(residual) * images.shape[1]
    moments = torch.empty(1 + length + length * length, dtype=torch.int64)
    session.run("moments", Moments(reading=session.reading(images, residual), moments=session.output(moments)))
    return moments


def stem(
    images, moments, weight, bn_weight, bn_bias, mean, var, eps, channel_scale, out_dtype, save, fast, residual="npr"
):
    session = Session(kernels())
    n, _, h, w = images.shape
    shape = n, len(weight), (h // 2 + 1) // 2, (w // 2 + 1) // 2
    out = torch.empty(shape, dtype=out_dtype, memory_format=torch.channels_last)
    code = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last) if save else None
    used_mean, used_var = (torch.empty(len(weight), dtype=torch.float64) for _ in range(2))
    session.run(
        "stem_forward",
        StemForward(
            reading=session.reading(images, residual),
            outputs=len(weight),
            moments=session.pointer(moments),
            weight=session.array(weight),
            bn_weight=session.array(bn_weight),
            bn_bias=session.array(bn_bias),
            mean=session.array(mean),
            var=session.array(var),
            eps=eps,
            channel_scale=session.scale(channel_scale),
            out=session.output(out),
            type=TYPES[out_dtype],
            code=session.output(code),
            used_mean=session.output(used_mean),
            used_var=session.output(used_var),
            fast=fast,
        ),
    )
    return out, torch.empty(0, dtype=torch.uint8) if code is None else code, used_mean, used_var


def stem_backward(grad, images, code, moments, weight, bn_weight, mean, var, eps, channel_scale, residual="npr"):
    session = Session(kernels())
    grad_weight = torch.empty(weight.shape, dtype=weight.dtype)
    grad_bn_weight, grad_bn_bias = (torch.empty(len(weight), dtype=weight.dtype) for _ in range(2))
    session.run(
        "stem_backward",
        StemBackward(
            reading=session.reading(images, residual),
            outputs=len(weight),
            grad=session.gradient(grad),
            code=session.pointer(code),
            moments=session.pointer(moments),
            weight=session.array(weight),
            bn_weight=session.array(bn_weight),
            mean=session.pointer(mean.contiguous()),
            var=session.pointer(var.contiguous()),
            eps=eps,
            channel_scale=session.scale(channel_scale),
            grad_weight=session.output(grad_weight),
            grad_bn_weight=session.output(grad_bn_weight),
            grad_bn_bias=session.output(grad_bn_bias),
            type=TYPES[weight.dtype],
        ),
    )
    return grad_weight, grad_bn_weight, grad_bn_bias


def implementation() -> SimpleNamespace:
    """The ops on the emulator; skips the test where it cannot be compiled."""
    if compiler() is None:
        pytest.skip("the CUDA emulator needs a C++20 compiler, as CXX or g++")
    return SimpleNamespace(
        conv2d=conv2d,
        conv2d_backward=conv2d_backward,
        patch_moments=patch_moments,
        stem=stem,
        stem_backward=stem_backward,
    )
