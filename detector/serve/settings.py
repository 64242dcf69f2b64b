"""What the service takes on, and for how long: every limit in one place. Free of FastAPI."""

from __future__ import annotations

from dataclasses import dataclass, fields

COPIES = 3
"""A body is there so many times at most: JSON as it came, its strings, and what they hold."""


@dataclass(frozen=True)
class Settings:
    """The limits of a service.

    Attributes:
        max_file_bytes: of one file.
        max_request_bytes: of a request's body, whatever is in it.
        max_held_bytes: of the bodies of all requests that are being received or answered.
        max_files: of one request.
        max_pixels: of one image.
        queue: files that wait to be scored, at most; those that are being scored do not count.
        batch_size: files that are scored together, at most.
        delay: seconds that the first file of a batch waits for others.
        timeout: seconds from a request's last byte to its answer.
        receive_timeout: seconds from a request's first byte to its last.
        drain: seconds that requests have to end when the service is asked to.
        token: what requests have to bring; None for nothing.
    """

    max_file_bytes: int = 32 * 2**20
    max_request_bytes: int = 64 * 2**20
    max_held_bytes: int = 256 * 2**20
    max_files: int = 32
    max_pixels: int = 2**26
    queue: int = 64
    batch_size: int = 16
    delay: float = 0.005
    timeout: float = 30.0
    receive_timeout: float = 30.0
    drain: float = 30.0
    token: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("token", "delay") and value <= 0:
                raise ValueError(f"{field.name} must be positive, got {value}")
        if self.delay < 0:
            raise ValueError(f"delay must not be negative, got {self.delay}")
        if self.max_files > self.queue:
            raise ValueError(f"a queue of {self.queue} has no room for a request of {self.max_files} files")
        if self.max_held_bytes < COPIES * self.max_request_bytes:
            raise ValueError(
                f"max_held_bytes, {self.max_held_bytes}, has no room for a request of {self.max_request_bytes} bytes, "
                f"which is there up to {COPIES} times"
            )
        if self.token is not None and (not self.token or not self.token.isascii() or not self.token.isprintable()):
            raise ValueError("a token must be printable ASCII, and not empty")
