"""Choice of launch configurations: measured once for each shape class and device, remembered on disk.

A kernel comes with a short list of configurations, the first of which is a good guess. The guess is taken, and nothing
is measured, in the interpreter, while a CUDA graph is captured, under ``torch.use_deterministic_algorithms(True)``
(results must not depend on a measurement) and with ``NPR_TRITON_TUNE=0`` in the environment. Otherwise the first call
of a shape class on a device times every configuration. The fastest serves this process and, through a JSON file beside
Triton's own cache, the next ones.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import triton

from npr_kernels.backends.triton import compat

# Other kernels have other best configurations: raise it with every change of a kernel or of a list.
_REVISION = 3


class Config(NamedTuple):
    """How a kernel is launched."""

    block: int  # positions in a tile
    programs: int  # resident programs on each multiprocessor
    num_warps: int


#: For all kernels in float64, which are there to be exact: their products run without tensor cores.
FLOAT64_CONFIG = Config(block=64 if compat.INTERPRETED else 16, programs=4, num_warps=4)


def fitted(configs: Sequence[Config], residual: str) -> Sequence[Config]:
    """NPR's configurations for a residual: half the positions for another one, whose patches are wider and take more
    registers to form. The interpreter has no registers."""
    if residual == "npr" or compat.INTERPRETED:
        return configs
    return tuple(config._replace(block=config.block // 2) for config in configs)


def run(
    op: str,
    kind: tuple[Any, ...],
    positions: int,
    device: torch.device,
    configs: Sequence[Config],
    launch: Callable[[Config], None],
) -> None:
    """Launches ``op`` with the configuration of its shape class, measuring first where that is due.

    ``kind`` and the power of two at or above ``positions`` make the shape class. ``launch`` may be called any number of
    times: its kernels overwrite their outputs.
    """
    if not _may_measure():
        # In the interpreter few programs, one after another, so that small images too have several tiles for each.
        launch(configs[0]._replace(programs=1) if compat.INTERPRETED else configs[0])
        return
    name = torch.cuda.get_device_name(device)
    key = " ".join(map(str, (op, _REVISION, name, *kind, triton.next_power_of_2(positions))))
    chosen = _remembered().get(key)
    if chosen is None or chosen not in configs:
        chosen = min(configs, key=lambda config: _milliseconds(config, launch))
        _remember(key, chosen)
    launch(chosen)


def _may_measure() -> bool:
    return not (
        compat.INTERPRETED
        or os.environ.get("NPR_TRITON_TUNE") == "0"
        or torch.are_deterministic_algorithms_enabled()
        or torch.cuda.is_current_stream_capturing()
    )


def _milliseconds(config: Config, launch: Callable[[Config], None]) -> float:
    """Median time; infinite where the device lacks the registers or shared memory."""
    try:
        return float(triton.testing.do_bench(lambda: launch(config), warmup=5, rep=20, return_mode="median"))
    except triton.runtime.errors.OutOfResources:
        return float("inf")


def _path() -> str:
    return os.path.join(compat.cache_directory(), f"npr_kernels-triton-{triton.__version__}.json")


def _read() -> dict[str, Config]:
    try:
        with open(_path(), encoding="utf-8") as file:
            return {key: Config(*map(int, value)) for key, value in json.load(file).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # not there yet, or not ours: measure again


@functools.cache
def _remembered() -> dict[str, Config]:
    return _read()


def _remember(key: str, config: Config) -> None:
    """Keeps a choice in this process and in the file, to which other processes may have added.

    A cache directory that cannot be written costs the next process its measurements and nothing else.
    """
    _remembered()[key] = config
    path = _path()
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), delete=False, encoding="utf-8") as file:
            json.dump({**_read(), key: config}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(file.name, path)
