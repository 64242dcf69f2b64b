"""The Ray that a scan runs on, of this machine or a cluster by its address: to join it, what room it has, whether it is
still there.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# Before ray is imported: nothing is reported to its makers; errors come as exceptions, not as text of its core; and no
# process is started for each core that then finds nothing to do.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_prestart_worker_first_driver", "0")

import ray

from detector.signals import held_back

SECONDS_BETWEEN_LOOKS = 5.0
"""At whether the cluster is still there."""

_SECONDS_TO_REACH = 5.0
_PATIENCE = 30.0
"""Seconds without a cluster's head, or without any machine for actors, after which a scan ends. Without the head Ray
would end the process after 60 s, and say nothing; without a machine it would wait for ever."""

_PACKAGES = Path(__file__).parents[2]
"""The folder that this package is in. Ray has its workers look for modules in the one that it is started in, before all
others, and there a folder that is scanned may have a numpy.py."""

_OBJECT_STORE = 80 * 2**20
"""Bytes, near the least that Ray takes: only paths and counts go through it."""


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


class Watch:
    """Whether the cluster is there: its head takes connections, and a machine of it is large enough for an actor."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        self._next = time.monotonic()
        self._missed: float | None = None  # when one of both was first not there, if it is not

    def look(self) -> None:
        """Now and then, however often it is called.

        Raises:
            OSError: it has not been there for a while.
        """
        now = time.monotonic()
        if now < self._next:
            return
        missing = self._missing()
        self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS
        if missing is None:
            self._missed = None
        elif self._missed is None:
            self._missed = now
        elif now - self._missed > _PATIENCE:
            raise OSError(missing)

    def _missing(self) -> str | None:
        try:  # first, for Ray would wait for its answers
            socket.create_connection(self._head, _SECONDS_TO_REACH).close()
        except OSError:
            return "the head of the Ray cluster is gone"
        wanted = {"CPU": self._crew.cores, "GPU": self._crew.gpus}
        for node in ray.nodes():
            if node["Alive"] and all(node["Resources"].get(name, 0) >= count for name, count in wanted.items()):
                return None
        gpu = " and a GPU" if self._crew.gpus else ""
        return f"no machine of the Ray cluster has {self._crew.cores} cores{gpu} any more"


def _start(address: str | None, cores: int) -> None:
    local: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        # A start that is interrupted leaves processes that shutdown knows nothing of.
        with held_back(), _silent(), _same_signals(), _in_folder(_PACKAGES):
            ray.init(
                address="local" if address is None else address,
                logging_level=logging.ERROR,
                log_to_driver=False,
                **(local if address is None else {}),
            )
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        where = "Ray does not start here" if address is None else f"--address {address}: that cluster cannot be joined"
        raise OSError(f"{where} ({_why(error)})") from error


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


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
    """Ray itself would try for minutes, and where something else answers for ever."""
    if address == "auto":
        return
    parts = urlsplit(f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise ValueError(f"--address must be HOST:PORT or auto, got {address!r}")
    try:
        with socket.create_connection((host, port), _SECONDS_TO_REACH) as connection:
            if os.environ.get("RAY_USE_TLS", "0") == "0":
                _check_http2(connection)
    except OSError as error:
        raise OSError(f"--address {address}: no Ray cluster answers there ({error.strerror or error})") from error


def _check_http2(connection: socket.socket) -> None:
    """Ray's head speaks gRPC, so each side begins with a frame of settings (RFC 9113, Section 3.4).

    Raises:
        OSError: the other side begins otherwise, or not in time.
    """
    settings = 4
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, settings, 0, 0, 0, 0, 0]))
    with connection.makefile("rb") as answer:
        if answer.read(9)[3:4] != bytes([settings]):
            raise OSError("what answers is something else")


def _why(error: BaseException) -> str:
    """In one line; Ray has the answer of a cluster that asks for a token within a traceback within a cause."""
    if any("AuthenticationError" in f"{type(part).__name__} {part}" for part in (error, error.__cause__)):
        return "it asks for its token: set RAY_AUTH_MODE=token, with its token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
    return " ".join(str(error).split())
