"""The compiled extension: its ops (``torch.ops.npr``) on the CPU and, where it was built with nvcc, on CUDA devices.

The CPU kernels are compiled for several instruction sets, and the best one that the processor has runs. With
NPR_CPU=baseline, avx2, avx512 or avx512vnni in the environment when this module is first imported, that one does;
asking for one that cannot run is an error, since whoever asks wants that path and no other.
"""

from __future__ import annotations

import functools
import importlib
import os
from types import ModuleType

import torch

extension: ModuleType | None
_import_error: str | None
try:
    extension = importlib.import_module("npr_kernels._C")
    _import_error = None
except ModuleNotFoundError:
    extension, _import_error = None, "the extension npr_kernels._C was not built"
except ImportError as error:
    extension, _import_error = None, f"the extension npr_kernels._C cannot be loaded: {error}"

# The instruction set that NPR_CPU asks for; empty, like unset, asks for none.
_asked = os.environ.get("NPR_CPU", "")
if _asked:
    if extension is None:
        raise ValueError(f"NPR_CPU={_asked} asks for CPU kernels, but {_import_error}")
    if _asked not in extension.instruction_sets():
        available = ", ".join(extension.instruction_sets())
        raise ValueError(f"NPR_CPU must be one of {available} on this processor, got {_asked!r}")
    extension.select_instruction_set(_asked)


def instruction_set_reason() -> str | None:
    """Why the CPU kernels run on the instruction set in use; None without kernels."""
    if extension is None:
        return None
    return "NPR_CPU asks for it" if _asked else "the best that runs here"


@functools.cache
def unavailable_reason(name: str) -> str | None:
    """Why ``"cpu"`` or ``"cuda"`` cannot run; None when it can."""
    if extension is None:
        return _import_error
    if name == "cpu":
        return None
    targets = extension.build_info()["cuda_targets"]
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
    return any(covers(target, capability) for target in extension.build_info()["cuda_targets"])


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
