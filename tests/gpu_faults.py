"""What a test leaves of the device: after some faults every later call in the process fails, and a kernel may hang.

A process of pytest-xdist that is in such a state ends, and another takes its place, so that a fault costs its own test
alone. Without pytest-xdist the run ends, since nothing that came after would mean anything.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

SECONDS = 60.0  # for a test


class Faults:
    """Hooks for pytest.

    Args:
        synchronise: waits for the device, and raises when it has met a fault.
    """

    def __init__(self, synchronise: Callable[[], object]) -> None:
        self._synchronise = synchronise
        self._failed = False
        self._is_worker = "PYTEST_XDIST_WORKER" in os.environ

    def seconds(self, item: pytest.Item) -> float:
        return SECONDS

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[Any]:
        report = yield
        self._failed |= report.failed
        return report

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        if item.get_closest_marker("gpu") is None:
            return (yield)
        self._failed = False
        if self._is_worker:
            faulthandler.dump_traceback_later(self.seconds(item), exit=True, file=sys.__stderr__)
        try:
            result = yield
        finally:
            faulthandler.cancel_dump_traceback_later()
        if self._failed:
            self._look()
        return result

    def _look(self) -> None:
        try:
            self._synchronise()
        except Exception as error:  # of whatever kind: the device does not forget it
            if self._is_worker:
                os._exit(1)
            pytest.exit(f"the device is not usable any more: {error}", returncode=1)
