"""Memory that is freed stays with the process."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Tells glibc's allocator to keep freed memory for the next allocation; does nothing where there is no glibc.

    By default glibc maps every large tensor anew and unmaps it when it is freed; the page faults of the fresh memory
    cost a network on the CPU more time than much of its arithmetic. Commands that run a network for long call it once,
    before the work. The process then stays as large as it once was.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    largest = 2**31 - 1  # of mallopt's int
    mallopt(_M_MMAP_THRESHOLD, largest)
    mallopt(_M_TRIM_THRESHOLD, largest)
    mallopt(_M_TOP_PAD, 2**28)
    mallopt(_M_ARENA_MAX, 1)  # threads' own arenas are limited to 64 MB, and give back what is larger
