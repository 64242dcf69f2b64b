"""Choice of launch configurations: measured once for each shape class and device, remembered on disk.

A kernel comes with a short list of configurations, the first of which is a good guess. The guess is taken, and nothing
is measured, in the interpreter, while a CUDA graph is captured, under ``torch.use_deterministic_algorithms(True)``
(results must not depend on a measurement) and with ``NPR_TRITON_TUNE=0`` in the environment. Otherwise the first call
of a shape class on a device times every configuration and the fastest is kept for this process and, in a JSON file
beside Triton's own cache, for the next.
"""

from __future__ import annotations

import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import triton

from npr_kernels.backends.triton import compat

# Kernels of another revision have other best configurations: raise it with every change of a kernel or a list.
_REVISION = 1


class Config(NamedTuple):
    """How a kernel is launched."""

    block: int  # positions in a tile
    programs: int  # resident programs on each multiprocessor; rows in a program for kernels that are not resident
    num_warps: int


def run(
    op: str,
    kind: tuple,
    positions: int,
    configs: Sequence[Config],
    launch: Callable[[Config], None],
) -> None:
    """Launches ``op`` once more than tuning needs, with the configuration of its shape class.

    ``kind`` and the power of two at or above ``positions`` make the shape class. ``launch`` must be repeatable: same
    input, same output.
    """
    if not _may_measure():
        launch(configs[0])
        return
    key = _key(op, kind, positions)
    chosen = _chosen().get(key)
    if chosen is None or chosen not in configs:
        chosen = min(configs, key=lambda config: _milliseconds(config, launch))
        _chosen()[key] = chosen
        _save(key, chosen)
    launch(chosen)


def _may_measure() -> bool:
    return not (
        compat.INTERPRETED
        or os.environ.get("NPR_TRITON_TUNE") == "0"
        or torch.are_deterministic_algorithms_enabled()
        or torch.cuda.is_current_stream_capturing()
    )


def _key(op: str, kind: tuple, positions: int) -> str:
    return " ".join(map(str, (op, _REVISION, torch.cuda.get_device_name(), *kind, triton.next_power_of_2(positions))))


def _milliseconds(config: Config, launch: Callable[[Config], None]) -> float:
    try:
        return triton.testing.do_bench(lambda: launch(config), warmup=5, rep=20, return_mode="median")
    except triton.runtime.errors.OutOfResources:
        return float("inf")


def _path() -> str:
    return os.path.join(compat.cache_directory(), f"npr_kernels-triton{triton.__version__}.json")


@functools.cache
def _chosen() -> dict[str, Config]:
    try:
        with open(_path(), encoding="utf-8") as file:
            return {key: Config(*map(int, value)) for key, value in json.load(file).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # not there yet, or not ours: measure again


def _save(key: str, config: Config) -> None:
    """Adds one entry to the file, which other processes may have extended; what cannot be written is not remembered."""
    path = _path()
    try:
        _chosen.cache_clear()
        entries = {**_chosen(), key: config}
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False, encoding="utf-8") as file:
            json.dump(entries, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
    except OSError:
        return
