"""What depends on the Triton version or on where kernels run: the GPU, or Triton's interpreter on the CPU."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import triton
import triton.language as tl

OLDEST = (3, 6)

#: Kernels run in the interpreter (TRITON_INTERPRET=1 when they were defined), on CPU tensors.
INTERPRETED: bool = triton.knobs.runtime.interpret

#: Where bfloat16 operands of tl.dot are kept. The interpreter would multiply their bit patterns.
BFLOAT16_OPERAND = tl.float32 if INTERPRETED else tl.bfloat16

DTYPES = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32, torch.float64: tl.float64}


def version() -> tuple[int, int]:
    major, minor = triton.__version__.split(".")[:2]
    return int(major), int(minor)


def cache_directory() -> Path:
    """Triton's own cache."""
    return Path(triton.knobs.cache.dir)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a device; the interpreter pretends to have two."""
    return 2 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count
