"""Compiles the Triton kernels for a GPU that need not be here, and prints what came out as JSON lines.

    python compile_kernels.py TARGET CALLS

TARGET is cuda:80, cuda:90, cuda:100 or hip:gfx942. CALLS is `common`, what detectors use, or `corners`: sizes of one,
which Triton makes constants of, sizes beyond 2^31, and every residual, dtype and optional argument.

The launchers run as they are, on meta tensors; a launch compiles and does not launch. One line a kernel: the call that
launched it, its name, bytes of shared memory, registers, bytes of stack (spills), and how often each kind of
tensor-core instruction occurs. Registers and stack are null where there is no cuobjdump.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from npr_kernels.backends.triton import compat, implementation
from npr_kernels.residuals import RESIDUALS, taps

WARP_SIZE = {"cuda": 32, "hip": 64}
TENSOR_CORES = {"cuda": r"\b(mma\.sync|wgmma\.mma_async|tcgen05\.mma)", "hip": r"\b(v_mfma)"}
IMAGE = 256


def main(target: str, which: str) -> None:
    backend, arch = target.split(":")
    gpu = GPUTarget(backend, int(arch) if arch.isdigit() else arch, WARP_SIZE[backend])
    driver = SimpleNamespace(
        get_current_target=lambda: gpu,
        get_current_device=lambda: 0,
        get_current_stream=lambda device: 0,
        get_active_torch_device=lambda: torch.device("meta"),
    )
    triton.runtime.driver.set_active(driver)
    compat.multiprocessors = lambda device: 132
    compiled: list[tuple[str, Any]] = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        compiled.append((self.fn.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    JITFunction.run = compile_only
    for call in {"common": common_calls, "corners": corner_calls}[which]():
        compiled.clear()
        call.launch()
        for name, kernel in compiled:
            print(json.dumps({"call": call.name, "kernel": name, **facts(kernel, backend)}), flush=True)


META = torch.device("meta")


def call_of(residual: str, name: str, op: Any, *args: Any) -> SimpleNamespace:
    return SimpleNamespace(name=f"{residual} {name}", launch=lambda: op(*args, residual=residual))


def common_calls() -> Iterator[SimpleNamespace]:
    yield from calls_with("npr", (torch.bfloat16, torch.float32, torch.float16))
    yield from calls_with("npr+haar", (torch.bfloat16,))


def calls_with(residual: str, dtypes: tuple[torch.dtype, ...]) -> Iterator[SimpleNamespace]:
    """Training and inference in bfloat16 and float32, channels_last; float16 is fast, with a bias, in NCHW."""
    ops, call = implementation(), partial(call_of, residual)
    length, channels = taps(residual) * 3, len(RESIDUALS[residual]) * 3
    images = torch.empty((8, 3, IMAGE, IMAGE), dtype=torch.uint8, device=META)
    weight = torch.empty((64, channels, 3, 3), device=META)
    vector = torch.empty((64,), device=META)
    double = torch.empty((64,), dtype=torch.float64, device=META)
    moments = torch.empty((1 + length + length * length,), dtype=torch.int64, device=META)
    scale = [0.01 * (i + 1) for i in range(channels)]

    def features(size: int, dtype: torch.dtype, channels_last: bool = True) -> torch.Tensor:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty((8, 64, size, size), dtype=dtype, device=META).contiguous(memory_format=memory_format)

    yield call("patch_moments", ops.patch_moments, images)
    code = features(IMAGE // 4, torch.uint8)
    for dtype in dtypes:
        if dtype == torch.float16:
            grad = features(128, dtype, channels_last=False)
            yield call("conv2d fast float16 nchw", ops.conv2d, images, weight, vector, scale, dtype, False, True)
            yield call("conv2d_backward float16 nchw", ops.conv2d_backward, grad, images, scale, torch.float32, True)
            continue
        name = str(dtype).removeprefix("torch.")
        yield call(f"conv2d {name}", ops.conv2d, images, weight, None, scale, dtype, True, False)
        yield call(f"conv2d_backward {name}", ops.conv2d_backward, features(128, dtype), images, scale, dtype, False)
        for moment in (None, moments):
            statistics = (vector, vector) if moment is None else (None, None)
            training = moment is not None
            yield call(
                f"stem {name}{' training' if training else ''}",
                ops.stem, images, moment, weight, vector, vector, *statistics, 1e-5, scale, dtype, training, False,
            )  # fmt: skip
        yield call(
            f"stem_backward {name}",
            ops.stem_backward, features(64, dtype), images, code, moments, weight, vector, double, double, 1e-5, scale,
        )  # fmt: skip


def corner_calls() -> Iterator[SimpleNamespace]:
    ops = implementation()
    for residual, n, c, h, w, outputs, dtype, out in (
        ("npr", 1, 1, 2, 2, 1, torch.float32, torch.bfloat16),
        ("npr", 1, 1, 2, 3, 1, torch.float64, torch.float64),
        ("npr", 2, 5, 6, 10, 70, torch.bfloat16, torch.float32),
        ("npr", 3, 2, 5, 4, 7, torch.float16, torch.float64),
        ("npr", 1, 3, 70_000, 70_000, 64, torch.float64, torch.float16),
        ("haar", 1, 1, 2, 2, 1, torch.float16, torch.bfloat16),
        ("npr+haar", 2, 5, 6, 10, 70, torch.float32, torch.float32),
        ("npr+haar", 3, 1, 5, 4, 7, torch.float64, torch.float64),
    ):
        call, length, channels = partial(call_of, residual), taps(residual) * c, len(RESIDUALS[residual]) * c
        scale = [0.01 * (i + 1) for i in range(channels)]
        images = torch.empty((n, c, h, w), dtype=torch.uint8, device=META, memory_format=torch.channels_last)
        moments = torch.empty((1 + length + length * length,), dtype=torch.int64, device=META)
        weight = torch.empty((outputs, channels, 3, 3), dtype=dtype, device=META)
        vector = torch.empty((outputs,), dtype=dtype, device=META)
        double = torch.empty((outputs,), dtype=torch.float64, device=META)
        grad = torch.empty((n, outputs, h // 2, w // 2), dtype=out, device=META)
        pooled = grad.new_empty((n, outputs, (h // 2 + 1) // 2, (w // 2 + 1) // 2))
        code = torch.empty_like(pooled, dtype=torch.uint8, memory_format=torch.channels_last)
        name = f"{n}x{c}x{h}x{w}x{outputs} {out}"
        yield call(f"patch_moments {name}", ops.patch_moments, images)
        yield call(f"conv2d {name}", ops.conv2d, images, weight, vector, scale, out, False, out == torch.float16)
        yield call(f"conv2d_backward {name}", ops.conv2d_backward, grad, images, scale, dtype, True)
        yield call(
            f"stem {name}", ops.stem, images, moments, weight, None, None, None, None, 0.0, scale, out, True, False
        )
        yield call(
            f"stem_backward {name}",
            ops.stem_backward, pooled, images, code, None, weight, None, double, double, 1e-5, scale,
        )  # fmt: skip


def facts(kernel: Any, backend: str) -> dict[str, Any]:
    text = kernel.asm["ptx" if backend == "cuda" else "amdgcn"]
    instructions = re.findall(TENSOR_CORES[backend], text)
    registers, stack = resources(kernel.asm["cubin"]) if backend == "cuda" else amd_resources(text)
    return {
        "shared": kernel.metadata.shared,
        "registers": registers,
        "stack": stack,
        "tensor_core_instructions": {name: instructions.count(name) for name in sorted(set(instructions))},
    }


def resources(cubin: bytes) -> tuple[int | None, int | None]:
    tool = getattr(triton.knobs.nvidia.cuobjdump, "path", None)
    if tool is None:
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", text)
    assert found is not None, text
    return int(found[1]), int(found[2])


def amd_resources(text: str) -> tuple[int, int]:
    registers = re.search(r"\.vgpr_count:\s+(\d+)", text)
    stack = re.search(r"\.private_segment_fixed_size:\s+(\d+)", text)
    assert registers is not None, text
    assert stack is not None, text
    return int(registers[1]), int(stack[1])


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    main(*sys.argv[1:])
