"""The machine and the software that a measurement was made with."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import torch

import npr_kernels as nk

_NVIDIA_SMI_FIELDS = (
    "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "temperature.gpu", "power.draw",
    "power.limit",
)  # fmt: skip


def describe(threads: int) -> dict[str, Any]:
    info = nk.info()
    return {
        "cpu": cpu_name(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "instruction_set": info["cpu"]["instruction_set"],
        "devices": info["devices"],
        "system": f"{platform.system()} {platform.machine()}",
        "python": info["versions"]["python"],
        "torch": info["versions"]["torch"],
        "npr_kernels": info["version"],
        "compiler": info["build"] and info["build"]["compiler"],
    }


def describe_gpu(device: torch.device) -> dict[str, Any]:
    """The GPU, and its state as found."""
    properties = torch.cuda.get_device_properties(device)
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory": properties.total_memory,
        "l2_cache": properties.L2_cache_size,
        "cuda": torch.version.cuda,
        "triton": nk.info()["versions"]["triton"],
        "built": nk.info()["build"],
        "backends": nk.info()["backends"],
        "state": nvidia_smi(device),
    }


def nvidia_smi(device: torch.device) -> dict[str, str]:
    """Driver, clocks (MHz), temperature (C) and power (W) as the tool reports them, or why it does not."""
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    query = f"--query-gpu={','.join(_NVIDIA_SMI_FIELDS)}"
    command = ["nvidia-smi", f"--id={uuid}", query, "--format=csv,noheader,nounits"]
    try:
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return {"error": str(error)}
    return dict(zip(_NVIDIA_SMI_FIELDS, (value.strip() for value in text.split(",")), strict=False))


def slug(text: str) -> str:
    """As part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
