"""Goes through rows: each in a worker, within its time, and whatever becomes of one, the next one is measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Protocol

from benchmarks.gpu.journal import Journal, Row

STARTS = 2
"""Workers in a row that may fail to start; then the implementation is given up."""


class Worker(Protocol):
    """See :class:`detector.bench.processes.Worker`."""

    broken: str | None

    def wait(self, timeout: float) -> None: ...

    def ask(self, request: str, value: Any, timeout: float) -> dict[str, Any]: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Caps:
    """Seconds.

    Attributes:
        start: until a worker is up.
        row: for a row.
        implementation: for all rows of an implementation, one after another.
        total: for all of it. No row begins later; one that has begun is ended.
        rows: for a row of an implementation that needs longer, by its name.
    """

    start: float = 60.0
    row: float = 40.0
    implementation: float = 150.0
    total: float = 500.0
    rows: dict[str, float] = field(default_factory=dict)

    def of(self, row: Row) -> float:
        return self.rows.get(row.implementation, self.row)


def run(
    rows: Iterable[Row],
    journal: Journal,
    start: Callable[[], Worker],
    caps: Caps,
    report: Callable[[Row, dict[str, Any]], None],
    worker: Worker | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Measures the rows that the journal lacks, those of each implementation by a worker of its own.

    Args:
        start: a worker.
        report: told of each row when it is done.
        worker: one that has measured nothing yet, to begin with.
    """
    end = clock() + caps.total
    pending = [row for row in rows if journal.pending(row)]
    for _, group in groupby(pending, key=lambda row: row.worker):
        turn = _Turn(journal, start, caps, report, min(end, clock() + caps.implementation), clock, worker)
        worker = None
        try:
            for row in group:
                turn.measure(row)
        finally:
            turn.close()
    if worker is not None:
        worker.close()


class _Turn:
    """The rows of an implementation."""

    def __init__(
        self,
        journal: Journal,
        start: Callable[[], Worker],
        caps: Caps,
        report: Callable[[Row, dict[str, Any]], None],
        end: float,
        clock: Callable[[], float],
        worker: Worker | None,
    ) -> None:
        self._journal, self._start, self._caps, self._report = journal, start, caps, report
        self._end, self._clock, self._worker = end, clock, worker
        self._failed_starts = 0

    def measure(self, row: Row) -> None:
        if (reason := self._ready()) is not None:
            self._journal.leave(row, reason)
            self._report(row, {"error": reason})
            return
        assert self._worker is not None
        self._journal.begin(row)
        cap, left = self._caps.of(row), self._end - self._clock()
        outcome = self._worker.ask("measure", row, min(cap, left))
        if self._worker.broken == "out of time" and left < cap:  # for which the row cannot be blamed
            self._journal.leave(row, "out of time")
        else:
            if self._worker.broken == "out of time":
                outcome = {"error": f"no result in {cap:g} s: it was ended"}
            self._journal.end(row, outcome)
        self._report(row, outcome)
        if self._worker.broken is not None or "fault" in outcome:
            self.close()

    def _ready(self) -> str | None:
        """Has a worker that is up; or says why not."""
        while self._failed_starts < STARTS:
            left = self._end - self._clock()
            if left <= 0:
                return "out of time"
            if self._worker is None:
                self._worker = self._start()
            self._worker.wait(min(self._caps.start, left))
            if self._worker.broken is None:
                self._failed_starts = 0
                return None
            self._reason = self._worker.broken
            self._failed_starts += 1
            self.close()
        return self._reason

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        self._worker = None
