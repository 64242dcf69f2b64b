"""The compiled extension: its ops (``torch.ops.npr``) on the CPU and, where it was built with nvcc, on CUDA devices.

They are in a library that knows nothing of Python. A module for this Python, ``npr_kernels._facts``, tells what it was
built with and what the processor can do; without it, as under a Python that is newer than the wheel, that is unknown.

The CPU kernels are compiled for several instruction sets, and the best one that the processor has runs. With
NPR_CPU=baseline, avx2, avx512 or avx512vnni in the environment when this module is first imported, that one does;
asking for one that cannot run is an error, since whoever asks wants that path and no other.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

LIBRARY = Path(__file__).parents[1] / "libnpr_kernels.so"

# The ops, where the library could be loaded, and the facts, where this Python has them.
extension: Any = None
facts: ModuleType | None = None
_load_error: str | None = None
if LIBRARY.exists():
    try:
        torch.ops.load_library(str(LIBRARY))
        extension = torch.ops.npr
    except OSError as error:
        _load_error = f"the extension {LIBRARY.name} cannot be loaded: {error}"
else:
    _load_error = f"the extension {LIBRARY.name} was not built"
if extension is not None:
    with contextlib.suppress(ImportError):
        facts = importlib.import_module("npr_kernels._facts")

# The instruction set that NPR_CPU asks for; empty, like unset, asks for none.
_asked = os.environ.get("NPR_CPU", "")
if _asked:
    if extension is None:
        raise ValueError(f"NPR_CPU={_asked} asks for CPU kernels, but {_load_error}")
    if _asked not in extension.instruction_sets():
        available = ", ".join(extension.instruction_sets())
        raise ValueError(f"NPR_CPU must be one of {available} on this processor, got {_asked!r}")
    extension.select_instruction_set(_asked)


def build_info() -> dict[str, Any] | None:
    """What the extension was built for and, where the facts are there, with; None without extension.

    ``cuda_targets``, such as "sm_90"; ``compiler``, ``torch`` and ``cuda``, the latter empty in a build without.
    """
    if extension is None:
        return None
    return {**(facts.build_info() if facts else {}), "cuda_targets": extension.cuda_targets()}


def instruction_set_reason() -> str | None:
    """Why the CPU kernels run on the instruction set in use; None without kernels."""
    if extension is None:
        return None
    return "NPR_CPU asks for it" if _asked else "the best that runs here"


@functools.cache
def unavailable_reason(name: str) -> str | None:
    """Why ``"cpu"`` or ``"cuda"`` cannot run; None when it can."""
    if extension is None:
        return _load_error
    if name == "cpu":
        return None
    targets = extension.cuda_targets()
    if not targets:
        return "the extension was built without CUDA"
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    served = [index for index in range(torch.cuda.device_count()) if serves(torch.device("cuda", index))]
    if not served:
        major, minor = torch.cuda.get_device_capability()
        return f"the device is sm_{major}{minor}, the kernels were compiled for {', '.join(targets)}"
    # What torch can do says little of the extension, which is linked to a CUDA runtime of its own.
    with torch.cuda.device(served[0]):
        reason: str | None = extension.cuda_unavailable_reason()
    return reason


@functools.cache
def serves(device: torch.device) -> bool:
    """True when the extension's kernels run on ``device``; of several GPUs, not all may be covered."""
    if extension is None or device.type != "cuda":
        return extension is not None and device.type == "cpu"
    capability = torch.cuda.get_device_capability(device)
    return any(covers(target, capability) for target in extension.cuda_targets())


def covers(target: str, capability: tuple[int, int]) -> bool:
    """True when code for a target runs on a device.

    Machine code, such as sm_80: on one of its own generation, as new or newer; sm_90a on exactly that device. PTX, such
    as compute_80: on any as new or newer, whose driver compiles it.
    """
    kind, _, name = target.partition("_")
    number = name.rstrip("af")
    major, minor = int(number[:-1]), int(number[-1])
    if target.endswith("a"):
        return capability == (major, minor)
    if kind == "compute" and name == number:
        return capability >= (major, minor)
    return capability[0] == major and capability[1] >= minor
