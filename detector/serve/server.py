"""The service on a socket, until it is asked to end: then what was begun is ended."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from detector.serve.app import create_app
from detector.serve.service import Service

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

# Seconds that a connection is kept for another request.
_KEPT = 30


class Server(uvicorn.Server):
    """Ends on SIGINT and SIGTERM without passing them on: to have ended what was begun is success."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        self._loop = asyncio.get_running_loop()
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._service.drain)  # not here: the signal may have come while it has a lock
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is any free one.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from error


def address_of(listener: socket.socket) -> str:
    """As people type it into a browser."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(service: Service, listener: socket.socket) -> None:
    """Serves in the main thread until SIGINT or SIGTERM; a second SIGINT does not wait."""
    config = uvicorn.Config(
        create_app(service),
        log_level="warning",
        access_log=False,  # names of files are nobody's business
        server_header=False,
        timeout_keep_alive=_KEPT,
        timeout_graceful_shutdown=math.ceil(service.settings.drain),
        ws="none",
    )
    Server(config, service).run(sockets=[listener])
