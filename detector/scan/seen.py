"""Which paths were seen, in 16 bytes for each: a billion of them fit into the memory of one machine."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

_BYTES = 16
"""Of a path's digest: of 10^9 paths, two share one with a probability of 10^-21."""


class Seen:
    """A set of texts that only grows: sorted arrays of digests, of which those of like size are merged."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, paths: Iterable[str]) -> np.ndarray:
        """Adds them; returns bool [N], for each whether it is new: neither added before nor earlier among these."""
        digests = np.array([_digest(path) for path in paths], f"S{_BYTES}")
        new = np.zeros(len(digests), bool)
        unique, first = np.unique(digests, return_index=True)
        new[first] = True
        for run in self._runs:
            places = np.searchsorted(run, unique).clip(max=len(run) - 1)
            new[first[run[places] == unique]] = False
        if new.any():
            self._merge(np.sort(digests[new]))
        return new

    def _merge(self, run: np.ndarray) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        self._runs.append(run)


def _digest(path: str) -> bytes:
    return blake2b(path.encode(), digest_size=_BYTES).digest()
