"""What is installed and what runs: versions, backends, compiled targets, CPU features, threads."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import torch

from npr_kernels import backends
from npr_kernels.backends import native

try:
    __version__ = metadata.version("npr-kernels")
except metadata.PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"


def _version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def info() -> dict[str, Any]:
    """Facts for bug reports, as JSON-serialisable values.

    Keys: ``version``; ``versions`` of python, torch, numpy, pillow and triton; ``backends``, each with ``available``
    and, when it is not, the ``reason``; ``chosen``, the backend that runs on each device; ``build``, facts of the
    extension or None, ``cuda_targets`` and, where the wheel knows this Python, ``compiler``, ``torch`` and ``cuda``;
    ``cpu`` with its ``machine``, the instruction set in use, why, and those that could be; ``threads``; ``devices``,
    the CUDA devices that torch sees.

    Example:
        >>> import npr_kernels as nk
        >>> nk.info()["backends"]["reference"]
        {'available': True}
    """
    extension = native.extension
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    reasons = {name: backends.unavailable_reason(name) for name in backends.BACKENDS}
    return {
        "version": __version__,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            **{name: _version_of(name) for name in ("numpy", "pillow", "triton")},
        },
        "backends": {
            name: {"available": reason is None, **({"reason": reason} if reason else {})}
            for name, reason in reasons.items()
        },
        "chosen": {str(device): backends.preferred(device) for device in devices},
        "build": native.build_info(),
        "cpu": {
            "machine": platform.machine(),
            "instruction_set": extension.instruction_set() if extension else None,
            "instruction_set_reason": native.instruction_set_reason(),
            "instruction_sets": extension.instruction_sets() if extension else [],
        },
        "threads": torch.get_num_threads(),
        "devices": [torch.cuda.get_device_name(device) for device in devices[1:]],
    }
