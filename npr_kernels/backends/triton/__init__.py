"""The Triton backend: fused ops on GPUs without nvcc, as ``torch.ops.npr.triton_*``.

Nothing here imports Triton before the backend is asked for. With TRITON_INTERPRET=1 in the environment when that
happens, the kernels run in Triton's interpreter, on CPU tensors.

    registration   the ops
    conv2d, conv2d_backward, patch_moments, stem, stem_backward   a kernel each, with its launcher
    fold, patches, products   what kernels share: weights, geometry, arithmetic
    tuning, compat   launch configurations; what depends on the Triton version
"""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np
import torch

_OLDEST = (3, 6)
_LOWEST_CAPABILITY = (8, 0)


@functools.cache
def unavailable_reason() -> str | None:
    """Why the backend cannot run; None when it can. Registers the ops when it can."""
    try:
        import triton
    except Exception as error:  # whatever a broken installation raises
        return f"Triton cannot be imported ({type(error).__name__}: {error})"
    try:
        version = tuple(map(int, triton.__version__.split(".")[:2]))
        if version < _OLDEST:
            return f"Triton is {triton.__version__}, older than {'.'.join(map(str, _OLDEST))}"
        reason = _no_interpreter(version) if triton.knobs.runtime.interpret else _no_device()
        if reason is None:
            implementation()
        return reason
    except Exception as error:
        return f"the kernels cannot be defined with Triton {triton.__version__} ({type(error).__name__}: {error})"


def _no_device() -> str | None:
    if not torch.cuda.is_available():
        return "torch sees no CUDA device"
    capability = torch.cuda.get_device_capability()
    if torch.version.hip is None and capability < _LOWEST_CAPABILITY:
        return f"the device is sm_{capability[0]}{capability[1]}, the kernels need sm_80"
    return None


def _no_interpreter(version: tuple[int, ...]) -> str | None:
    """Until 3.7 the interpreter makes numbers of arrays with one element, which NumPy refuses since 2.4."""
    if version < (3, 7) and np.lib.NumpyVersion(np.__version__) >= "2.4.0":
        return f"the interpreter of Triton {'.'.join(map(str, version))} needs NumPy before 2.4, not {np.__version__}"
    return None


def serves(device: torch.device) -> bool:
    """True when the backend can run on ``device``."""
    return device.type == ("cpu" if unavailable_reason() is None and _interpreted() else "cuda")


def _interpreted() -> bool:
    from npr_kernels.backends.triton import compat

    return compat.INTERPRETED


def implementation() -> ModuleType:
    """The module with the low-level ops as functions: conv2d, conv2d_backward, patch_moments, stem, stem_backward."""
    from npr_kernels.backends.triton import registration

    return registration
