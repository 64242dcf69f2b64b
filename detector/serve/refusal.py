"""Why a request gets no verdict: a status of HTTP and a sentence."""

from __future__ import annotations


class Refusal(Exception):
    """A request, or one of its files, that is not answered.

    Attributes:
        status: of HTTP.
        reason: in words, without a full stop.
        path: the file that it is about; None for the whole request.
        retry_after: seconds after which it may be tried again; None where trying again does not help.
        unread: whether some of the request's body was not received, so that no other request can follow it.
    """

    def __init__(self, status: int, reason: str, *, path: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.path, self.retry_after = status, reason, path, retry_after
        self.unread = False
