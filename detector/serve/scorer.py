"""One thread that scores what waits in a bounded line, in batches: those that came within a short delay go together.

One thread, because torch divides its work among threads of its own, and because batches form where there is one who
takes them. It decodes no file itself: :func:`detector.detection.detect` does so ahead, on threads.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from detector.detection import Content, Detection

# Of what is known of the seconds for a file, kept when another batch tells more.
_KEPT = 0.8


class QueueFull(Exception):
    """There is no room, or what waits takes longer than anyone waits. `seconds` is about when there will be room."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Closed(Exception):
    """The scorer takes nothing more."""


class Expired(Exception):
    """The file's time was over before it was begun."""


@dataclass(eq=False)
class _Job:
    content: Content
    deadline: float
    drawn: bool
    future: Future[tuple[Detection, Any]] = field(default_factory=Future)


class Scorer:
    """Scores files in their order, on a thread of its own from `start` to `close`.

    Args:
        detect: gives a Detection for each file, in their order, drawing the files as it goes.
        draw: makes the pictures of a file that got a score.
        queue: files that may wait.
        batch_size: files that are given to `detect` together, at most.
        delay: seconds that the first of a batch waits for others.
        on_batch: is told the number of files of a batch, and the seconds that it took.
    """

    def __init__(
        self,
        detect: Callable[[Iterable[Content]], Iterator[Detection]],
        draw: Callable[[Content], Any],
        *,
        queue: int,
        batch_size: int,
        delay: float,
        on_batch: Callable[[int, float], None] = lambda files, seconds: None,
    ) -> None:
        self._detect, self._draw, self._on_batch = detect, draw, on_batch
        self._queue, self._batch_size, self._delay = queue, batch_size, delay
        self._changed = threading.Condition()  # guards what follows
        self._jobs: deque[_Job] = deque()
        self._scoring = 0
        self._closed = False
        self._seconds_a_file = 0.0
        self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Files in the line."""
        return len(self._jobs)

    def submit(
        self, contents: Sequence[Content], timeout: float, *, drawn: bool = False
    ) -> list[Future[tuple[Detection, Any]]]:
        """Puts files in the line, all or none.

        Args:
            timeout: seconds after which nobody waits for them any more.
            drawn: whether pictures are wanted.

        Returns:
            For each file, in their order, its Detection and what `draw` made of it, or None. A future that is cancelled
            before its file is begun is left out; Expired is the exception of one whose time is over by then.

        Raises:
            QueueFull, Closed: nothing was put in the line.
        """
        now = time.monotonic()
        jobs = [_Job(content, now + timeout, drawn) for content in contents]
        with self._changed:
            if self._closed:
                raise Closed
            before = len(self._jobs) + self._scoring
            late = before > 0 and self._seconds_a_file * (before + len(jobs)) > timeout
            if late or len(self._jobs) + len(jobs) > self._queue:
                raise QueueFull(self._seconds_a_file * before)
            self._jobs.extend(jobs)
            self._changed.notify_all()
        return [job.future for job in jobs]

    def hurry(self) -> None:
        """From now on no file waits for others to come."""
        with self._changed:
            self._delay = 0.0
            self._changed.notify_all()

    def close(self) -> None:
        """Takes nothing more, and returns when all that waits was scored."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            begun = time.monotonic()
            files = self._score(batch)
            if files:
                seconds = time.monotonic() - begun
                self._learn(seconds / files)
                self._on_batch(files, seconds)

    def _next_batch(self) -> list[_Job]:
        """Once there is one; none when the scorer is closed and all is done."""
        with self._changed:
            self._scoring = 0
            self._changed.wait_for(lambda: self._jobs or self._closed)
            self._changed.wait_for(self._is_due, self._delay)
            self._scoring = min(len(self._jobs), self._batch_size)
            return [self._jobs.popleft() for _ in range(self._scoring)]

    def _is_due(self) -> bool:
        """Whether what waits is to be scored at once."""
        return len(self._jobs) >= self._batch_size or self._closed or not self._delay

    def _score(self, batch: list[_Job]) -> int:
        """Ends the futures of a batch; returns how many files were begun."""
        left, begun = deque(batch), []

        def files() -> Iterator[Content]:
            """Those that are still waited for when they are drawn."""
            while left:
                job = left.popleft()
                if not job.future.set_running_or_notify_cancel():
                    continue
                if time.monotonic() > job.deadline:
                    job.future.set_exception(Expired())
                    continue
                begun.append(job)
                yield job.content

        try:
            ready = []
            for number, detection in enumerate(self._detect(files())):
                job = begun[number]
                if job.drawn and detection.error is None:
                    ready.append((job, detection))  # others of the batch do not wait for pictures
                else:
                    job.future.set_result((detection, None))
            for job, detection in ready:
                job.future.set_result((detection, self._draw(job.content)))
        except Exception as error:
            begun += [job for job in left if job.future.set_running_or_notify_cancel()]
            for job in begun:
                if not job.future.done():
                    job.future.set_exception(error)
        return len(begun)

    def _learn(self, seconds: float) -> None:
        with self._changed:
            known = self._seconds_a_file
            self._seconds_a_file = _KEPT * known + (1 - _KEPT) * seconds if known else seconds


def retry_after(seconds: float) -> int:
    """Whole seconds for the header of that name, 1 to 60."""
    return min(max(math.ceil(seconds), 1), 60)
