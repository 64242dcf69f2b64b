"""Passes through a model side by side, each on one thread, so that no result depends on how many threads there are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import TypeVar

import torch

from detector.threads import undivided

MAX_PIXELS_AT_ONCE = 2**23
"""Most pixels in all passes together that have started and not ended, unless one alone has more."""

T = TypeVar("T")


class Passes:
    """Runs functions on threads of its own, each of which torch leaves undivided, and without gradients.

    Threads rather than processes: torch lets go of the interpreter while it computes.

    Args:
        threads: how many functions run at once. With less than 2 they run in the calling thread, when they are started.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = _pool(threads) if threads > 1 else None
        self._started: deque[tuple[Future, int]] = deque()
        self._pixels = 0

    def __enter__(self) -> Passes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def start(self, function: Callable[[], T], pixels: int) -> Future[T]:
        """Starts a function, once there is room for its pixels; its result comes, its exception is raised, later.

        Functions start in their order, so that one may wait for the results of those before it.
        """
        if self._pool is None:
            future: Future[T] = Future()
            future.set_result(_without_gradients(function))
            return future
        while self._started and self._is_full(pixels):
            oldest, freed = self._started.popleft()
            wait([oldest])
            self._pixels -= freed
        future = self._pool.submit(_without_gradients, function)
        self._started.append((future, pixels))
        self._pixels += pixels
        return future

    def _is_full(self, pixels: int) -> bool:
        # Two for each thread: the next is there when one ends, and no more images wait than that.
        return len(self._started) >= 2 * self._threads or self._pixels + pixels > MAX_PIXELS_AT_ONCE


def _without_gradients(function: Callable[[], T]) -> T:
    with torch.inference_mode():  # a setting of the thread
        return function()


def _pool(threads: int) -> ThreadPoolExecutor:
    """A pool in whose threads torch uses one thread."""
    with undivided(threads) as begin:
        pool = ThreadPoolExecutor(threads, initializer=begin)
        for _ in range(threads):  # threads begin as work comes, and none is idle before all have begun
            pool.submit(int)
    return pool
