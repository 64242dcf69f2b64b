"""Figures of the service, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_FILES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one service.

    Args:
        waiting: the number of files in the line.
        held: bytes of the bodies that are held.
    """

    def __init__(self, waiting: Callable[[], float], held: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "npr_requests", "Requests that were answered.", ["path", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "npr_request_seconds",
            "From a request's first byte to its answer's last.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.images = Counter(
            "npr_images", "Files that were scored, by verdict; error where there is none.", ["verdict"],
            registry=self.registry,
        )  # fmt: skip
        self.batches = Histogram(
            "npr_batch_files", "Files that were scored together.", buckets=_FILES, registry=self.registry
        )
        self.batch_seconds = Histogram(
            "npr_batch_seconds", "What scoring them took.", buckets=_SECONDS, registry=self.registry
        )
        queue = Gauge("npr_queue_files", "Files that wait to be scored.", registry=self.registry)
        queue.set_function(waiting)
        bodies = Gauge("npr_held_bytes", "Bodies of requests that are received or answered.", registry=self.registry)
        bodies.set_function(held)
        for verdict in ("real", "fake", "unsure", "error"):
            self.images.labels(verdict)

    def batch(self, files: int, seconds: float) -> None:
        self.batches.observe(files)
        self.batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
