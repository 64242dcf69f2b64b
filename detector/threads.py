"""Threads of Python in which torch does not divide its work among threads of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def undivided(threads: int) -> Iterator[Callable[[], None]]:
    """Has torch use one thread in each of the threads that are started in the block.

    Args:
        threads: how many are started.

    Yields:
        What each of them calls first; it returns when all are there. The setting of the thread that runs the block is
        the same after it.
    """
    everyone = threading.Barrier(threads + 1)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes on the setting of the process when it first asks, and keeps it
        everyone.wait()

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield begin
        everyone.wait()
    except BaseException:
        everyone.abort()
        raise
    finally:
        torch.set_num_threads(before)
