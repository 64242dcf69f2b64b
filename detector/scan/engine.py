"""A scan on Ray: actors score blocks and write their files; this process lists the blocks, and hears of counts.

Ray starts as many actors as are asked for, wherever the cluster has room, and another one for each that died; here each
gets the next block as soon as it is free, and the block of one that died goes to whichever is free next. Ray Data would
do that too, with four more processes and a loop that together cost more than all the rest, see docs/scale.md.
"""

from __future__ import annotations

import platform
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

# Before ray is imported, for it sets what ray then reads.
from detector.scan.cluster import SECONDS_BETWEEN_LOOKS, Crew, Watch

# isort: split
import pyarrow as pa
import ray

from detector.importing import nothing_to_collect
from detector.memory import keep_freed_memory
from detector.scan.listing import Sources, blocks_of
from detector.scan.output import check_shared, counts_of, paths_done, write_part
from detector.scan.seen import Seen

if TYPE_CHECKING:
    from detector.scan.scoring import Judging

_TRIES = 3
"""That a block whose actor died gets beside the first, and so does an actor that died before it was ready."""

_PLACES = 2
"""Blocks that an actor has: one to score, and the next."""


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
    work = _Work(lambda: kind.remote(replace(judging, cores=crew.cores), folder, run), Watch(crew).look)
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
        look: called again and again while actors are waited for; raises what ends the work.
    """

    def __init__(self, actor: Callable[[], Any], look: Callable[[], None]) -> None:
        self._actor, self._look = actor, look
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
            RayError: what an actor raised; or actors died, one after the other, over one block or before they were
                ready.
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
        ended: list[Any] = []
        while not ended:
            ended, _ = ray.wait(list(self._begun), timeout=SECONDS_BETWEEN_LOOKS)
            self._look()
        task = self._begun.pop(ended[0])
        try:
            counts = ray.get(ended[0])
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError as error:  # a death, by whatever name
            if task.deaths == _TRIES or _never_began(error):
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
        try:
            _ = self._score
            check_shared(self._folder, self._run)
        except OSError as error:
            what = f"{error.filename}: {error.strerror}" if error.filename else error
            raise OSError(f"{platform.node()}: {what}") from error

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


def _never_began(error: BaseException) -> bool:
    """Whether a worker could not make the actor: what it is made of is not there, which no other try will mend."""
    return isinstance(error, ray.exceptions.RayActorError) and error.actor_init_failed


def _cause(error: BaseException) -> Exception:
    """What a worker raised, of the exceptions that a command prints as one line; all else as it is."""
    seen: BaseException | None = error
    while seen is not None:
        inner = getattr(seen, "cause", None) or seen.__cause__
        if isinstance(seen, (ValueError, OSError)) and not isinstance(seen, ray.exceptions.RayError):
            return seen
        seen = inner if inner is not seen else None
    if _never_began(error):
        said = str(error).strip()
        where = re.search(r"\bip=([^,)\s]+)", said)
        return OSError(
            f"{where[1] if where else 'a machine'}: no actor starts there ({said.splitlines()[-1].strip()}); "
            "each machine of the cluster needs npr-kernels[scan]"
        )
    if isinstance(error, ray.exceptions.RayError) and not isinstance(error, ray.exceptions.RayTaskError):
        return OSError(
            f"{_TRIES + 1} actors died over the same files or as they started, of want of memory or a codec's fault"
        )
    return RuntimeError(str(error))
