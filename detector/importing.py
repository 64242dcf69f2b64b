"""Importing torch and all that is built on it, quickly. Free of torch."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def nothing_to_collect() -> Iterator[None]:
    """Keeps the garbage collector from the imports in the block, and from what they have made ever after.

    It would look through the quarter of a million objects that torch and this package make, several times, and find
    nothing to free: a sixth of the time to the first verdict.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
    gc.freeze()
