"""Memory that is freed stays with the process, or goes back to the system."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory() -> bool:
    """Tells glibc's allocator to keep freed memory for the next allocation.

    By default glibc maps every large tensor anew and unmaps it when it is freed; the page faults of the fresh memory
    cost a network on the CPU more time than much of its arithmetic. Commands that run a network for long call it once,
    before the work. The process then stays as large as it once was.

    Returns:
        Whether there is such an allocator; without one nothing is done.
    """
    mallopt = _glibc("mallopt")
    if mallopt is None:
        return False
    largest = 2**31 - 1  # of mallopt's int
    mallopt(_M_MMAP_THRESHOLD, largest)
    mallopt(_M_TRIM_THRESHOLD, largest)
    mallopt(_M_TOP_PAD, 2**28)
    mallopt(_M_ARENA_MAX, 1)  # threads' own arenas are limited to 64 MB, and give back what is larger
    return True


def give_back_memory() -> None:
    """Gives memory that was freed back to the system, once, also after :func:`keep_freed_memory`."""
    malloc_trim = _glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _glibc(function: str) -> Any:
    """The C library's function; None where there is none of that name."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        return getattr(ctypes.CDLL(None), function, None)
    except OSError:
        return None
