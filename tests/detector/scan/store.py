"""An object store on loopback: as much of S3 as pyarrow's client asks for to list a bucket and to read from it."""

from __future__ import annotations

import math
import sys
import threading
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 4
"""Names that it lists at a time."""


class Store(ThreadingHTTPServer):
    """One bucket, `bucket`.

    Attributes:
        objects: bytes by their names.
        answers: how many more it gives; then all is refused.
        refusal: the status then.
        query: of URIs that lead here.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.answers = math.inf
        self.refusal = HTTPStatus.SERVICE_UNAVAILABLE
        self.query = f"endpoint_override=127.0.0.1:{self.server_port}&scheme=http&region=eu-north-1"

    def uri(self, name: str) -> str:
        return f"s3://key:secret@bucket/{name}?{self.query}"

    def handle_error(self, request, client_address) -> None:
        """Silent about clients that end, with connections open, since tests read what commands say."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


@contextmanager
def serving():
    """A store, in the block."""
    with Store() as store:
        thread = threading.Thread(target=store.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *_) -> None:
        pass

    def do_HEAD(self) -> None:
        parts = urlsplit(self.path)
        _, bucket, *name = unquote(parts.path).split("/", 2)
        asked = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        data = self.server.objects.get("".join(name))
        self.server.answers -= 1
        if self.server.answers < 0:
            self._answer(self.server.refusal)
        elif bucket != "bucket":
            self._answer(HTTPStatus.NOT_FOUND)
        elif not "".join(name):
            self._answer(HTTPStatus.OK, self._listed(asked).encode())
        elif data is None:
            self._answer(HTTPStatus.NOT_FOUND)
        elif (span := self.headers.get("Range")) is None:
            self._answer(HTTPStatus.OK, data)
        else:
            first, last = map(int, span.removeprefix("bytes=").split("-"))
            part = data[first : last + 1]
            span = f"bytes {first}-{first + len(part) - 1}/{len(data)}"
            self._answer(HTTPStatus.PARTIAL_CONTENT, part, ("Content-Range", span))

    do_GET = do_HEAD

    def _answer(self, status: HTTPStatus, body: bytes = b"", *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (("Content-Length", str(len(body))), ("ETag", '"0"'), *headers):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _listed(self, asked: dict[str, str]) -> str:
        prefix, start = asked.get("prefix", ""), asked.get("continuation-token", "")
        names = sorted(name for name in self.server.objects if name.startswith(prefix) and name >= start)
        count = min(PAGE, int(asked.get("max-keys", PAGE)))
        more = f"<NextContinuationToken>{escape(names[count])}</NextContinuationToken>" if names[count:] else ""
        contents = "".join(
            f"<Contents><Key>{escape(name)}</Key><Size>{len(self.server.objects[name])}</Size></Contents>"
            for name in names[:count]
        )
        return (
            f"<ListBucketResult><IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}"
            f"<KeyCount>{len(names[:count])}</KeyCount>{contents}</ListBucketResult>"
        )
