"""What the machine can do at best, measured beside the benchmarks: multiply-adds and copied bytes a second."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import torch

from benchmarks import timing

_FMA_SOURCE = Path(__file__).with_name("fma_peak.cpp")


def fma_peak(threads: int) -> float | None:
    """float32 multiply-adds a second of the processor's widest vectors; None without a C++ compiler."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "fma_peak"
        options = ["-O2", "-std=c++20", "-march=native", "-ffp-contract=fast", "-pthread"]
        subprocess.run([compiler, *options, str(_FMA_SOURCE), "-o", str(program)], check=True)
        return float(subprocess.run([program, str(threads)], check=True, capture_output=True, text=True).stdout)


def copy_bandwidth(device: str | torch.device = "cpu", megabytes: int = 256) -> float:
    """Bytes a second, read plus written, of a copy far larger than any cache, into memory already touched."""
    device = torch.device(device)
    source = torch.ones(megabytes << 20, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return 2 * source.numel() / min(timing.seconds(lambda _: target.copy_(source), device, rounds=2, calls=5))
