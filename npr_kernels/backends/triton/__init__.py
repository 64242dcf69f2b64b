"""The Triton backend: fused ops on GPUs without nvcc."""

from __future__ import annotations

import functools

import torch


@functools.cache
def unavailable_reason() -> str | None:
    """Why the backend cannot run; None when it can."""
    return "its kernels are not part of this release"


def serves(device: torch.device) -> bool:
    """True when the backend can run on ``device``."""
    return device.type == "cuda"
