"""Where the public functions run: a backend and the device that it serves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import torch

import npr_kernels as nk
from npr_kernels import backends
from tests.npr_kernels import implementations

# Backend and device of each. The names are those of tests/npr_kernels/implementations.py.
PLACES = {
    "cpu": ("cpu", "cpu"),
    "triton-interpreter": ("triton", "cpu"),
    "triton": ("triton", "cuda"),
    "cuda": ("cuda", "cuda"),
}


@dataclass(frozen=True)
class Place:
    backend: str
    device: str

    def spare(self, case: bool) -> None:
        """As :meth:`tests.npr_kernels.implementations.Implementation.spare`."""
        if case and self.backend == "triton" and self.device == "cpu":
            pytest.skip("interpreted; other cases cover it")

    def op(self, name: str) -> Callable:
        """The backend's own op, by its name in :mod:`npr_kernels.ops`."""
        return getattr(torch.ops.npr, f"triton_{name}" if self.backend == "triton" else name).default


@contextmanager
def at(name: str) -> Iterator[Place]:
    """The named place, its backend chosen for all calls; a skip that says why where it does not run here."""
    backend, device = PLACES[name]
    if backend == "triton":
        implementations.triton(name)
    reason = backends.unavailable_reason(backend)
    if reason is not None:
        pytest.skip(reason)
    with nk.backend(backend):
        yield Place(backend, device)
