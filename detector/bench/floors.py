"""What the machine can do at best, measured beside the benchmarks: multiply-adds and copied bytes a second.

A floor is the time that work takes at best: the larger of its multiply-adds over the measured peak and of its bytes,
each read or written once, over the measured bandwidth.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import torch

from detector.bench import timing
from npr_kernels.backends import native

_STEPS = 5_000_000  # tens of milliseconds


def measure(threads: int) -> dict[str, float | None]:
    """Multiply-adds and bytes a second, as `floors_per_second` of a results file."""
    return {"multiply_adds": multiply_add_peak(threads), "bytes": copy_bandwidth()}


def multiply_add_peak(threads: int, *, runs: int = 5, steps: int = _STEPS) -> float | None:
    """float32 multiply-adds a second of the processor's widest vectors; None without the extension's facts."""
    if native.facts is None:
        return None
    work = native.facts.multiply_adds
    best = 0.0
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(runs + 1):  # the first one starts the threads, and wakes the cores
            start = time.perf_counter()
            done = sum(pool.map(work, [steps] * threads))
            best = max(best, done / (time.perf_counter() - start))
    return best


def copy_bandwidth(device: str | torch.device = "cpu", megabytes: int = 256) -> float:
    """Bytes a second, read plus written, of a copy far larger than any cache, into memory already touched."""
    return bandwidth("bytes", device, megabytes)


BANDWIDTHS = ("bytes", "written", "read")
"""Those of a copy, of writing alone and of reading alone, as rows count what they cost."""


def bandwidth(kind: str, device: str | torch.device = "cpu", megabytes: int = 256) -> float:
    """Bytes a second of one of BANDWIDTHS."""
    device = torch.device(device)
    source = torch.ones(megabytes << 20, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source) if kind == "bytes" else source
    numbers = source.view(torch.float32)
    calls: dict[str, tuple[int, Callable[[], object]]] = {
        "bytes": (2, lambda: target.copy_(source)),
        "written": (1, lambda: numbers.fill_(1.0)),
        "read": (1, numbers.sum),
    }
    times, call = calls[kind]
    return times * source.numel() / min(timing.seconds(lambda _: call(), device, rounds=2, calls=5))


def floor_ms(costs: Mapping[str, float], per_second: Mapping[str, float | None]) -> float | None:
    """The least time in ms of work that costs so many multiply_adds and bytes; None where no floor is known."""
    times = [costs[name] / rate for name, rate in per_second.items() if rate and costs.get(name)]
    return 1e3 * max(times) if times else None
