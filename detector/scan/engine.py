"""A scan on Ray Data: one task lists blocks, actors score them and write their files, and the leader hears of counts.

Ray Data starts as many actors as are asked for, wherever the cluster has room, gives each the next block as soon as it
is free, lists no more than a bounded number of blocks ahead, and does the block of an actor that died again on another.
Its own checkpoints (ray.data.checkpoint, 2.60) are not used: they keep paths in a second folder beside the results,
which must be trusted to agree; a data file is there under its name before it is whole; nothing ties them to a model;
and every filtering actor holds all paths as Python strings. :mod:`detector.scan.output` has what is here instead.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

# Before ray is imported: nothing is reported to its makers, and errors come as exceptions, not as text of its core.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from detector.memory import keep_freed_memory
from detector.scan.listing import Sources, blocks_of
from detector.scan.output import counts_of, paths_done, write_part
from detector.scan.seen import Seen

if TYPE_CHECKING:
    from detector.scan.scoring import Judging

_SECONDS_TO_REACH = 5.0
_OBJECT_STORE = 80 * 2**20
"""Bytes, near the least that Ray takes: only paths and counts go through it."""

_TRIES = 3
"""That a block whose actor died gets beside the first."""


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
    local: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        with _silent(), _same_signals():
            ray.init(
                address="local" if address is None else address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **(local if address is None else {}),
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = "Ray does not start here" if address is None else f"--address {address}: no Ray cluster answers there"
        raise OSError(f"{where} ({str(error).strip().splitlines()[0]})") from error
    try:
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
        ValueError, OSError: what an actor or the listing raised. RuntimeError: an actor dies, however often.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's, of its own deprecated settings
        context = ray.data.DataContext.get_current()
        context.target_max_block_size = context.target_min_block_size = 1  # a row each, which is a block of ours
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        listed = ray.data.read_datasource(_Listing(sources, folder, run, block), override_num_blocks=1, num_cpus=0)
        done = listed.map_batches(
            _Actor,
            fn_constructor_args=(replace(judging, cores=crew.cores), folder, run),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=crew.actors),
            num_cpus=crew.cores,
            num_gpus=crew.gpus,
            max_restarts=_TRIES,
            max_task_retries=_TRIES,
        )
    try:
        for counts in done.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for row in counts.to_pylist():
                yield Counter(dict(zip(row["verdicts"], row["files"], strict=True)))
    except ray.exceptions.RayError as error:
        raise _cause(error) from error


class _Listing(Datasource):
    """Rows of one column, `block`: what :func:`detector.scan.listing.blocks_of` gives, as Arrow's stream."""

    def __init__(self, sources: Sources, folder: Path, run: str, block: int) -> None:
        self._all = sources, folder, run, block, os.getcwd()

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, *_: Any, **__: Any) -> list[ReadTask]:
        sources, folder, run, block, start = self._all

        def read() -> Iterator[pa.Table]:
            os.chdir(start)
            seen = Seen()
            for paths in paths_done(folder, run):
                seen.add(paths)
            for rows in blocks_of(sources, block, seen):
                yield pa.table({"block": pa.array([_packed(rows)], pa.large_binary())})

        nothing_known = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(read, nothing_known)]


class _Actor:
    def __init__(self, judging: Judging, folder: Path, run: str) -> None:
        from detector.scan.scoring import Scorer  # not with this module, for the listing task does without torch

        keep_freed_memory()
        self._score = Scorer(judging)
        self._folder, self._run = folder, run

    def __call__(self, rows: pa.Table) -> pa.Table:
        results = self._score(_unpacked(rows["block"][0].as_buffer()))
        write_part(self._folder, self._run, results)
        counts = counts_of(results)
        return pa.table({"verdicts": [list(counts)], "files": [list(counts.values())]})


def _packed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _unpacked(data: pa.Buffer) -> pa.Table:
    with pa.ipc.open_stream(data) as reader:
        return reader.read_all()


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
    if isinstance(error, ray.exceptions.ActorDiedError | ray.exceptions.WorkerCrashedError):
        return OSError(f"an actor died {_TRIES + 1} times at the same block, of want of memory or of a damaged codec")
    return RuntimeError(str(error))
