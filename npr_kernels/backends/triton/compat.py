"""What depends on the Triton version or on where kernels run: the GPU, or Triton's interpreter on the CPU."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl

#: Kernels run in the interpreter (TRITON_INTERPRET=1 when they were defined), on CPU tensors.
INTERPRETED: bool = triton.knobs.runtime.interpret

#: What bfloat16 operands of tl.dot are kept in. The interpreter would multiply their bit patterns.
BFLOAT16_OPERAND = tl.float32 if INTERPRETED else tl.bfloat16

#: Conversions to bfloat16 truncate, in the interpreter.
BFLOAT16_TRUNCATES: bool = INTERPRETED

#: Options of every launch. Multiply and add are fused whatever the version's default, about which 3.9 warns.
OPTIONS: dict[str, bool] = {} if INTERPRETED else {"enable_fp_fusion": True}

#: Output channels in a program of the small kernels; the interpreter runs programs one after another.
OUTPUTS_PER_PROGRAM: int = 64 if INTERPRETED else 1


def cache_directory() -> str:
    """Triton's own cache."""
    return str(triton.knobs.cache.dir)


@functools.cache
def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a device; the interpreter pretends to have two."""
    return 2 if INTERPRETED else torch.cuda.get_device_properties(device).multi_processor_count
