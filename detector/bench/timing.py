"""Times of single calls: between events on a GPU, by the clock on the CPU."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

# More than the clock of any GPU: waiting longer than needed does the measurement no harm.
_CYCLES_PER_SECOND = 3e9
_LONGEST_WAIT = 0.5  # seconds


def seconds(call: Callable[[int], Any], device: torch.device, *, rounds: int, calls: int) -> list[float]:
    """The times of `rounds` times `calls` calls, call(0), call(1) and so on, after two rounds that are not counted.

    On a GPU, which must be the current device, a round is queued behind a kernel that waits until the host has issued
    all of it: the device never waits for the host, and a time is that of the device's work alone.
    """
    numbers = itertools.count()
    if device.type != "cuda":
        _by_the_clock(call, numbers, calls)  # compiles, and fills the caches
        return [each for _ in range(rounds) for each in _by_the_clock(call, numbers, calls)]
    for _ in range(2):
        issuing = sum(_by_the_clock(call, numbers, calls))
        torch.cuda.synchronize()
    wait = int(min(2 * issuing, _LONGEST_WAIT) * _CYCLES_PER_SECOND)
    return [each for _ in range(rounds) for each in _by_events(call, numbers, calls, wait)]


def turn(call: Callable[[], Any], seconds: float, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    """The times of calls one after another for so many seconds, at least one. The first one does not count if there are
    more: others may have had the caches and cores before it."""
    times: list[float] = []
    start = now = clock()
    while not times or now - start < seconds:
        call()
        before, now = now, clock()
        times.append(now - before)
    return times[1:] or times


def _by_the_clock(call: Callable[[int], Any], numbers: Iterator[int], calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        call(next(numbers))
        times.append(time.perf_counter() - start)
    return times


def _by_events(call: Callable[[int], Any], numbers: Iterator[int], calls: int, wait: int) -> list[float]:
    events = [torch.cuda.Event(enable_timing=True) for _ in range(calls + 1)]
    torch.cuda._sleep(wait)  # cycles
    for event in events[:-1]:
        event.record()
        call(next(numbers))
    events[-1].record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in itertools.pairwise(events)]
