"""The machine and the software that a measurement was made with."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import npr_kernels as nk


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


def cpu_name() -> str:
    """The processor's name as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
