"""Ctrl-C and SIGTERM as exceptions that wait for the end of a line. Works in the main thread, and free of torch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM; a KeyboardInterrupt, so that what cleans up after Ctrl-C does here."""


_EXCEPTIONS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}

_holding = False
_held: BaseException | None = None


def status_of(error: KeyboardInterrupt) -> int:
    """The exit status that shells expect: 128 and the signal's number."""
    return 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)


@contextmanager
def as_exceptions() -> Iterator[None]:
    """Raises KeyboardInterrupt for SIGINT and Terminated for SIGTERM, in the block and out of `held_back`.

    A signal that the process was started to ignore stays ignored.
    """
    replaced: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _EXCEPTIONS:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                replaced[number] = signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


@contextmanager
def held_back() -> Iterator[None]:
    """Raises the exception of a signal that comes in the block at its end; that of a second signal at once."""
    global _holding, _held
    _holding = True
    try:
        yield
    finally:
        _holding = False
        error, _held = _held, None
    if error is not None:
        raise error


def _handle(number: int, frame: FrameType | None) -> None:
    global _held
    error = _EXCEPTIONS[signal.Signals(number)]()
    if not _holding or _held is not None:
        raise error
    _held = error
