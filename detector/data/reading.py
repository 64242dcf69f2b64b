"""Work ahead of its consumer: files decoded on threads while the images before them are scored, in bounded memory.

Threads rather than processes, because Pillow lets go of the interpreter while it decodes, and reading and hashing do
too. Photographs of 481x321 as JPEG and images of some 250x250 as PNG, decoded on two cores that had other work too,
images a second: without workers 740 and 350; one thread 740 and 330, two 830 and 310; one process 330 and 185, two 460
and 205. Each image that comes from a process is copied through shared memory, in fresh pages and under a file
descriptor of its own, and where shared memory is small (64 MB in a container, by default) large images do not fit.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from detector.data.decode import Admit
from detector.threads import undivided

MOST_WAITING = 32
"""Items that are begun or done and not taken yet, for each reading at once."""

ROOM_OF_WORKER = 2**26
"""Bytes of decoded images that may wait to be taken, for each worker: an image of 22 megapixels."""

SECONDS_TO_END = 5.0
"""How long an abandoned reading waits for its threads. One that reads a pipe which nobody writes to never ends."""

Item = TypeVar("Item")
Result = TypeVar("Result")

Load = Callable[[Item, Admit], Result]
"""What is done with an item, on any thread. It says how many bytes its result takes before it takes them."""


def read_ahead(
    items: Iterable[Item],
    load: Load[Item, Result],
    *,
    workers: int,
    ordered: bool = True,
    most_waiting: int = MOST_WAITING,
    room: int | None = None,
) -> Generator[tuple[Item, Result], None, None]:
    """Loads items ahead of their consumer, on threads in which torch uses one thread each.

    Args:
        items: drawn lazily, by the consumer's thread, no more than `most_waiting` ahead of it; never ends early because
            a result is ready, so a slow source delays each result until its next item.
        load: must give the same result on whatever thread and in whatever order it is called.
        workers: threads; 0 loads each item when it is asked for, on the consumer's own.
        ordered: results come in the items' order; otherwise as they are ready.
        most_waiting: items that are begun and not taken.
        room: bytes that the results of those items take; by default ROOM_OF_WORKER for each worker. The item that is
            next in the order is let in at any rate, so that one result may lie beyond it.

    Yields:
        Each item once, with its result. When the iterator is closed, or its consumer fails or is interrupted, what has
        not begun is dropped and the threads end.

    Raises:
        Whatever `load` raises, in the failed item's place; and what `items` raises.
    """
    if workers < 0:
        raise ValueError(f"workers must not be negative, got {workers}")
    if most_waiting < 1:
        raise ValueError(f"most_waiting must be at least 1, got {most_waiting}")
    if workers == 0:
        for item in items:
            yield item, load(item, _any_size)
        return
    with _Readers(load, workers, ordered, ROOM_OF_WORKER * workers if room is None else room) as readers:
        for item in items:
            readers.begin(item)
            while readers.waiting >= most_waiting or readers.ready():
                yield readers.take()
        while readers.waiting:
            yield readers.take()


def _any_size(size: int) -> None:
    """There is always room for what is taken at once."""


@dataclass(eq=False)
class _Work(Generic[Item, Result]):
    """An item on its way.

    Attributes:
        size: bytes that were let in.
        done: whether one of result and error is there.
    """

    item: Item
    size: int = 0
    done: bool = False
    result: Any = None
    error: BaseException | None = None


class _Closed(BaseException):
    """Ends the loading of what nobody waits for any more. No Exception, for codecs' are caught as a file's damage."""


class _Readers(Generic[Item, Result]):
    """Threads that load items. All but `_loop` and what it calls belongs to the consumer's thread."""

    def __init__(self, load: Load[Item, Result], threads: int, ordered: bool, room: int) -> None:
        self._load, self._ordered, self._room = load, ordered, room
        lock = threading.Lock()  # guards all that follows; each condition wakes those alone whom it concerns
        self._queued, self._freed, self._done = (threading.Condition(lock) for _ in range(3))
        self._begun: deque[_Work[Item, Result]] = deque()  # and not taken, in the items' order
        self._queue: deque[_Work[Item, Result]] = deque()  # those of them that no thread has
        self._size = 0  # of those of them that were let in
        self._closed = False
        self._threads: list[threading.Thread] = []
        try:
            with undivided(threads) as begin:
                for _ in range(threads):
                    # Daemons: a thread that never ends must not keep the program from ending.
                    self._threads.append(threading.Thread(target=self._run, args=(begin,), name="reader", daemon=True))
                    self._threads[-1].start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Readers[Item, Result]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._queued:
            self._closed = True
            self._queue.clear()
            self._begun.clear()
            self._queued.notify_all()
            self._freed.notify_all()
        for thread in self._threads:
            thread.join(SECONDS_TO_END)

    @property
    def waiting(self) -> int:
        """Items that were begun and not taken."""
        return len(self._begun)

    def begin(self, item: Item) -> None:
        work: _Work[Item, Result] = _Work(item)
        with self._queued:
            self._begun.append(work)
            self._queue.append(work)
            self._queued.notify()

    def ready(self) -> bool:
        """Whether there is one to take that is done."""
        with self._done:
            return self._next() is not None

    def take(self) -> tuple[Item, Result]:
        """The next one, once it is done."""
        with self._done:
            while (work := self._next()) is None:
                self._done.wait()
            self._begun.remove(work)
            self._size -= work.size
            self._freed.notify_all()
        if work.error is not None:
            raise work.error
        return work.item, work.result

    def _next(self) -> _Work[Item, Result] | None:
        if self._ordered:
            return self._begun[0] if self._begun and self._begun[0].done else None
        return next((work for work in self._begun if work.done), None)

    def _run(self, begin: Callable[[], None]) -> None:
        try:
            begin()
        except threading.BrokenBarrierError:  # another thread could not be started
            return
        while self._loop():
            pass

    def _loop(self) -> bool:
        """Loads one item; no reference to it outlives the call. False when there will be no more."""
        with self._queued:
            self._queued.wait_for(lambda: self._closed or self._queue)
            if self._closed:
                return False
            work = self._queue.popleft()
        try:
            work.result = self._load(work.item, partial(self._admit, work))
        except _Closed:
            return False
        except BaseException as error:
            work.error = error
        with self._done:
            work.done = True
            if self._next() is not None:
                self._done.notify()
        return True

    def _admit(self, work: _Work[Item, Result], size: int) -> None:
        with self._freed:
            self._freed.wait_for(lambda: self._closed or self._begun[0] is work or self._size + size <= self._room)
            if self._closed:
                raise _Closed
            self._size += size
            work.size += size
