"""A scan on Ray: actors score blocks and write their files; this process lists the blocks, and hears of counts.

Ray starts as many actors as are asked for, wherever the cluster has room, and another one for each that died; here each
gets the next block as soon as it is free, and the block of one that died goes to whichever is free next. Ray Data would
do that too, with four more processes and a loop that together cost more than all the rest, see docs/scale.md.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

# Before ray is imported: nothing is reported to its makers; errors come as exceptions, not as text of its core; and no
# process is started for each core that then finds nothing to do.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

import pyarrow as pa
import ray

from detector.importing import nothing_to_collect
from detector.memory import keep_freed_memory
from detector.scan.listing import Sources, blocks_of
from detector.scan.output import counts_of, paths_done, write_part
from detector.scan.seen import Seen
from detector.signals import held_back

if TYPE_CHECKING:
    from detector.scan.scoring import Judging

_SECONDS_TO_REACH = 5.0
_OBJECT_STORE = 80 * 2**20
"""Bytes, near the least that Ray takes: only paths and counts go through it."""

_TRIES = 3
"""That a block whose actor died gets beside the first, and so does an actor that died before it was ready."""

_PLACES = 2
"""Blocks that an actor has: one to score, and the next."""


@dataclass(frozen=True)
class Crew:
    """The actors.

    Attributes:
        actors: how many.
        cores: of each.
        gpus: of each.
    """

    actors: int
    cores: int
    gpus: int


@contextmanager
def running(address: str | None, cores: int) -> Iterator[None]:
    """Ray, in the block: a local one with so many cores, or the cluster at the address. One that runs in this process
    already is used as it is. What the process does on signals stays the same; Ray would end it.

    Raises:
        OSError: there is no cluster.
    """
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _check_reachable(address)
    try:
        _start(address, cores)
        yield
    finally:
        ray.shutdown()


def find_crew(actors: int | None, cores: int | None, gpu: bool) -> Crew:
    """As asked for; else an actor for each GPU, or for each 8 cores, of the machines that Ray runs on.

    Raises:
        ValueError: there is not so much of it.
    """
    there = ray.cluster_resources()
    all_cores, all_gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if gpu and not all_gpus:
        raise ValueError("--device cuda: Ray knows of no GPU")
    most = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=0)
    if cores is None:
        cores = max(1, min(8, most, all_cores // all_gpus if gpu else most))
    if cores > most:
        raise ValueError(f"--cores {cores}: no machine has more than {most}")
    room = min(all_gpus, all_cores // cores) if gpu else all_cores // cores
    if actors is not None and actors > room:
        raise ValueError(f"--actors {actors}: there is room for {room} of {cores} cores each")
    return Crew(room if actors is None else actors, cores, int(gpu))


def has_gpu() -> bool:
    return ray.cluster_resources().get("GPU", 0) >= 1


def scan(
    sources: Sources, folder: Path, run: str, judging: Judging, crew: Crew, block: int
) -> Generator[Counter[str], None, None]:
    """Scores what has no result in the folder yet, and writes it there.

    Args:
        sources: what is scanned.
        folder, run: of the open :class:`detector.scan.output.Output`; the folder at the same path on each machine.
        judging: its cores are the crew's.
        block: files in one.

    Yields:
        Of each block that is written, files by verdict.

    Raises:
        ValueError, OSError: what an actor or the listing raised; or actors died, however often.
    """
    kind = ray.remote(num_cpus=crew.cores, num_gpus=crew.gpus)(_Actor)
    work = _Work(lambda: kind.remote(replace(judging, cores=crew.cores), folder, run))
    try:
        work.start(crew.actors)
        seen = Seen()
        for paths in paths_done(folder, run):
            seen.add(paths)
        yield from work.done(map(_packed, blocks_of(sources, block, seen)))
    except ray.exceptions.RayError as error:
        raise _cause(error) from error
    finally:
        work.end()


class _Task(NamedTuple):
    """What an actor was asked for: to score a block, or to be ready for one; and how often actors died of it before."""

    actor: Any
    block: bytes | None
    deaths: int


class _Work:
    """Which actor has which block.

    An actor has two places for blocks, so that it need not wait for the next one. They are free once it is ready, so
    nothing waits for an actor that the cluster has no room for. One that died is replaced, and its blocks begin again.

    Args:
        actor: makes an actor, with the methods of :class:`_Actor`.
    """

    def __init__(self, actor: Callable[[], Any]) -> None:
        self._actor = actor
        self._actors: list[Any] = []
        self._free: deque[Any] = deque()
        self._begun: dict[Any, _Task] = {}
        self._again: deque[tuple[bytes, int]] = deque()

    def start(self, actors: int, deaths: int = 0) -> None:
        for _ in range(actors):
            actor = self._actor()
            self._actors.append(actor)
            self._begun |= {actor.ready.remote(): _Task(actor, None, deaths) for _ in range(_PLACES)}

    def end(self) -> None:
        """Whatever the actors are doing."""
        while self._actors:
            ray.kill(self._actors.pop())

    def done(self, blocks: Iterable[bytes]) -> Iterator[Counter[str]]:
        """The counts of the blocks, as they are there; no more are drawn than there are places.

        Raises:
            RayActorError: actors died, one after the other, over one block or before they were ready.
        """
        for block in blocks:
            while not self._free:
                yield from self._next()
            self._begin(block, 0)
        while self._again or any(task.block is not None for task in self._begun.values()):
            yield from self._next()

    def _begin(self, block: bytes, deaths: int) -> None:
        actor = self._free.popleft()
        self._begun[actor.score.remote(block)] = _Task(actor, block, deaths)

    def _next(self) -> Iterator[Counter[str]]:
        """Waits until a block is done, or an actor is ready or has died."""
        (ended,), _ = ray.wait(list(self._begun))
        task = self._begun.pop(ended)
        try:
            counts = ray.get(ended)
        except ray.exceptions.RayActorError:
            if task.deaths == _TRIES:
                raise
            self._replace(task)
        else:
            self._free.append(task.actor)
            if task.block is not None:
                yield counts
        while self._again and self._free:
            self._begin(*self._again.popleft())

    def _replace(self, task: _Task) -> None:
        if task.block is not None:
            self._again.append((task.block, task.deaths + 1))
        if task.actor in self._actors:  # or what was in its other place told of it
            self._actors.remove(task.actor)
            ray.kill(task.actor)  # which may be out of reach alone
            self._free = deque(actor for actor in self._free if actor != task.actor)
            self.start(1, task.deaths + 1 if task.block is None else 0)


class _Actor:
    def __init__(self, judging: Judging, folder: Path, run: str) -> None:
        self._judging, self._folder, self._run = judging, folder, run

    def ready(self) -> None:
        """Returns when it can score, or raises why it cannot."""
        _ = self._score

    def score(self, block: bytes) -> Counter[str]:
        """Writes the block's results; returns its files by verdict."""
        results = self._score(_unpacked(block))
        write_part(self._folder, self._run, results)
        return counts_of(results)

    @cached_property
    def _score(self) -> Callable[[pa.Table], pa.Table]:
        with nothing_to_collect():
            from detector.scan.scoring import Scorer

        keep_freed_memory()
        return Scorer(self._judging)


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(data: pa.Buffer) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


def _start(address: str | None, cores: int) -> None:
    local: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        # A start that is interrupted leaves processes that shutdown knows nothing of.
        with held_back(), _silent(), _same_signals():
            ray.init(
                address="local" if address is None else address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **(local if address is None else {}),
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "Ray does not start here" if address is None else f"--address {address}: no Ray cluster answers there"
        raise OSError(f"{where} ({str(error).strip().splitlines()[0]})") from error


@contextmanager
def _same_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)


@contextmanager
def _silent() -> Iterator[None]:
    """Keeps what Ray's core says on standard error, past Python, from the user: that its log level was set, first."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_reachable(address: str) -> None:
    """Ray itself would try for a minute, and end the process."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        place = parts.hostname, parts.port
    except ValueError:
        place = None, None
    if None in place:
        if address == "auto":
            return
        raise ValueError(f"--address must be HOST:PORT or auto, got {address!r}")
    try:
        socket.create_connection((place[0] or "", place[1] or 0), _SECONDS_TO_REACH).close()
    except OSError as error:
        raise OSError(f"--address {address}: no Ray cluster answers there ({error.strerror or error})") from error


def _cause(error: BaseException) -> Exception:
    """What a worker raised, of the exceptions that a command prints as one line; all else as it is."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None) or seen.__cause__
        if isinstance(seen, (ValueError, OSError)) and not isinstance(seen, ray.exceptions.RayError):
            return seen
        seen = inner if inner is not seen else None
    if isinstance(error, ray.exceptions.RayActorError):
        return OSError(
            f"{_TRIES + 1} actors died over the same files or as they started, of want of memory or a codec's fault"
        )
    return RuntimeError(str(error))
