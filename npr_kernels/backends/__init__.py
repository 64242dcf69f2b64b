"""Which implementation runs, and why.

A backend is available when it could be loaded on this machine; it is chosen for a call when it is available, serves
the images' device and covers the call. The order of preference is cuda, triton on CUDA devices and cpu on the CPU;
what is left runs on the reference.
"""

from __future__ import annotations

import warnings
from types import TracebackType

import torch

from npr_kernels.backends import native, triton

BACKENDS = ("reference", "cpu", "triton", "cuda")

_PREFERENCE = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}

# Residuals that a backend's kernels have, where they are not all of them.
_RESIDUALS: dict[str, tuple[str, ...]] = {}

# The backend that `with backend(...)` asks for; process-wide.
_requested: str | None = None


class NPRFallbackWarning(UserWarning):
    """A call ran on the reference because no fused kernel covers it; said once for each reason."""


def unavailable_reason(name: str) -> str | None:
    """Why the backend cannot run on this machine; None when it can."""
    if name == "reference":
        return None
    if name == "triton":
        return triton.unavailable_reason()
    return native.unavailable_reason(name)


# torch.compiler.assume_constant_result, which imports Dynamo, and Triton with it: not wanted at import.
unavailable_reason._dynamo_marked_constant = True  # type: ignore[attr-defined]


def available_backends() -> dict[str, bool]:
    """Backends by name: True for each one that can run on this machine.

    Example:
        >>> import npr_kernels as nk
        >>> nk.available_backends()["reference"]
        True
    """
    return {name: unavailable_reason(name) is None for name in BACKENDS}


class backend:
    """Context manager that asks for one backend: ``with npr_kernels.backend("reference"): ...``.

    Process-wide, and nestable. A call that the backend does not cover, or images on a device that it does not serve,
    raise instead of falling back. Backward passes run on the backend of their forward.

    Raises:
        ValueError: unknown name. RuntimeError: the backend is not available on this machine, with the reason.

    Example:
        >>> import torch, npr_kernels as nk
        >>> images = torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8)
        >>> weight = torch.randn(16, 3, 3, 3)
        >>> with nk.backend("reference"):
        ...     expected = nk.npr_conv2d(images, weight)
        >>> torch.allclose(nk.npr_conv2d(images, weight), expected, atol=1e-3)
        True
    """

    def __init__(self, name: str) -> None:
        if name not in BACKENDS:
            raise ValueError(f"backend must be one of {', '.join(BACKENDS)}; got {name!r}")
        reason = unavailable_reason(name)
        if reason is not None:
            raise RuntimeError(f"backend {name!r} is not available: {reason}")
        self.name = name

    def __enter__(self) -> backend:
        global _requested
        self._outer = _requested
        _requested = self.name
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _requested
        _requested = self._outer


def requested() -> str | None:
    """The backend that ``with backend(...)`` asks for; None where nothing does."""
    return _requested


def choose(op: str, device: torch.device, residual: str, uncovered: str | None) -> str:
    """The backend for a call of ``op`` on ``device``; ``uncovered`` says why no fused kernel covers it, or is None."""
    if _requested is not None:
        if _requested == "reference":
            return "reference"
        uncovered = uncovered or _lacks(_requested, residual)
        if uncovered is not None:
            raise ValueError(f"{op}: backend {_requested!r} was asked for, but {uncovered}")
        if not _serves(_requested, device):
            raise ValueError(f"{op}: backend {_requested!r} was asked for, but the images are on {device}")
        return _requested
    if uncovered is None:
        name = preferred(device, residual)
        if name != "reference":
            return name
        uncovered = _nothing_serves(device, residual)
    if not torch.compiler.is_compiling():
        _say_once(op, uncovered)
    return "reference"


def preferred(device: torch.device, residual: str = "npr") -> str:
    """The backend that runs what it covers of a residual on ``device`` when none is asked for."""
    for name in _PREFERENCE.get(device.type, ()):
        if unavailable_reason(name) is None and _serves(name, device) and _lacks(name, residual) is None:
            return name
    return "reference"


def cpu_kernels_run(device: torch.device) -> bool:
    """True when an op that has CPU kernels alone runs on them: everywhere else, and where the reference is asked for or
    the kernels are not there, it runs on its reference, unasked, whatever other backend is."""
    return device.type == "cpu" and _requested != "reference" and unavailable_reason("cpu") is None


def _serves(name: str, device: torch.device) -> bool:
    if name == "triton":
        return triton.serves(device)
    return name == device.type and native.serves(device)


_serves._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _lacks(name: str, residual: str) -> str | None:
    """Why the backend's kernels do not cover a residual; None when they do."""
    if residual in _RESIDUALS.get(name, (residual,)):
        return None
    return f"the {name} kernels have no residual {residual!r}"


def _nothing_serves(device: torch.device, residual: str) -> str:
    reasons = [
        f"{name}: {unavailable_reason(name) or _lacks(name, residual) or 'not compiled for this device'}"
        for name in _PREFERENCE.get(device.type, ())
    ]
    return f"no fused backend runs on {device.type}" + (f" ({'; '.join(reasons)})" if reasons else "")


_said: set[tuple[str, str]] = set()


def _say_once(op: str, reason: str) -> None:
    if (op, reason) not in _said:
        _said.add((op, reason))
        warnings.warn(f"{op} runs on the PyTorch reference: {reason}", NPRFallbackWarning, stacklevel=4)
