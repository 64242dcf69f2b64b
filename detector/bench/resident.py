"""Resident memory of this process, in bytes, as Linux tells it; None elsewhere."""

from __future__ import annotations

import contextlib
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def now() -> int | None:
    return _read("VmRSS")


def peak() -> int | None:
    """The most since the process began, or since :func:`forget_peak`."""
    return _read("VmHWM")


def forget_peak() -> None:
    """Begins anew with the peak, where the system lets it."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5")


def _read(name: str) -> int | None:
    if not _STATUS.exists():
        return None
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return None
