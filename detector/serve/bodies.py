"""Bodies of requests, received in bounded memory and nowhere else: no file of an upload touches the disk."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError
from python_multipart import MultipartParser
from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import parse_options_header

from detector.detection import Content
from detector.serve.refusal import Refusal
from detector.serve.schema import MAX_NAME, Batch
from detector.serve.settings import COPIES, Settings

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

FIELD = "files"
"""The form's field, once for each file."""

# What is read on of a body that is not wanted, so that who sends it reads the answer.
_DISCARDED_BYTES = 2**26
_DISCARDED_SECONDS = 5.0


# The parser tells of damaged forms by exceptions; what it logs beside that, anyone could fill a log with.
logging.getLogger("python_multipart").addHandler(logging.NullHandler())


class Allowance:
    """Bytes that all requests together may hold. Belongs to the event loop's thread."""

    def __init__(self, total: int) -> None:
        self._total = total
        self.held = 0

    def request(self) -> Held:
        return Held(self)

    def take(self, size: int) -> None:
        """Raises Refusal where there is no room."""
        if self.held + size > self._total:
            raise Refusal(429, "the service holds as many uploads as it can", retry_after=1)
        self.held += size


class Held:
    """What one request holds of an allowance, given back at the end of a `with`."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._size = 0

    def take(self, size: int) -> None:
        self._allowance.take(size)
        self._size += size

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._allowance.held -= self._size


async def receive(content_type: str, chunks: AsyncIterator[bytes], settings: Settings, held: Held) -> list[Content]:
    """The files of a body, in their order.

    Raises:
        Refusal: 408 for a body that takes too long, 413 for one of too many bytes or files, 415 for one that is neither
            a form nor JSON, 422 for a damaged one or one without a file, 429 where it has no room.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        reading = _read_form(options, chunks, settings, held)
    elif kind == b"application/json":
        reading = _read_json(chunks, settings, held)
    else:
        raise Refusal(415, "the request must be of multipart/form-data or application/json")
    try:
        return await asyncio.wait_for(reading, settings.receive_timeout)
    except asyncio.TimeoutError:
        raise Refusal(408, f"the request did not come whole within {settings.receive_timeout:g} s") from None


async def discard(chunks: AsyncIterator[bytes]) -> bool:
    """Reads on what is not wanted, within bounds: who sends a body looks for the answer when it is sent.

    Returns:
        Whether the body came to its end.
    """

    async def read() -> bool:
        size = 0
        async for chunk in chunks:
            size += len(chunk)
            if size > _DISCARDED_BYTES:
                return False
        return True

    try:
        return await asyncio.wait_for(read(), _DISCARDED_SECONDS)
    except asyncio.TimeoutError:
        return False


async def _bounded(chunks: AsyncIterator[bytes], settings: Settings, held: Held, copies: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > settings.max_request_bytes:
            raise Refusal(413, f"the request has more than {settings.max_request_bytes} bytes")
        held.take(copies * len(chunk))
        yield chunk


async def _read_json(chunks: AsyncIterator[bytes], settings: Settings, held: Held) -> list[Content]:
    body = b"".join([chunk async for chunk in _bounded(chunks, settings, held, COPIES)])
    return await asyncio.to_thread(_from_json, body, settings)


def _from_json(body: bytes, settings: Settings) -> list[Content]:
    try:
        batch = Batch.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        message = str(first["msg"]).removeprefix("Value error, ")
        raise Refusal(422, f"{place}: {message}" if place else message) from None
    if len(batch.files) > settings.max_files:
        raise _too_many(settings)
    for file in batch.files:
        if len(file.content) > settings.max_file_bytes:
            raise _too_large(file.name, settings)
    return [Content(file.name, file.content) for file in batch.files]


async def _read_form(
    options: dict[bytes, bytes], chunks: AsyncIterator[bytes], settings: Settings, held: Held
) -> list[Content]:
    form = _Form(settings)
    boundary = options.get(b"boundary")
    if not boundary:
        raise Refusal(422, "the form's header names no boundary")
    try:
        parser = MultipartParser(boundary, form.callbacks())
        async for chunk in _bounded(chunks, settings, held, 2):  # pieces are put together when all are there
            parser.write(chunk)
        parser.finalize()
    except MultipartParseError as error:
        raise Refusal(422, f"the form is damaged ({error})") from None
    if not form.ended:
        raise Refusal(422, "the form ends early")
    if not form.contents:
        raise Refusal(422, f"the form has no file in its field {FIELD!r}")
    return form.contents


@dataclass
class _Form:
    """What a parser of multipart finds, part by part."""

    settings: Settings
    contents: list[Content] = field(default_factory=list)
    ended: bool = False
    _headers: dict[bytes, bytes] = field(default_factory=dict)
    _header: tuple[bytearray, bytearray] = field(default_factory=lambda: (bytearray(), bytearray()))
    _name: str = ""
    _pieces: list[bytes] = field(default_factory=list)
    _size: int = 0

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._name_part,
            "on_part_data": self._add,
            "on_part_end": self._end_part,
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.contents) == self.settings.max_files:
            raise _too_many(self.settings)
        self._headers, self._pieces, self._size = {}, [], 0

    def _end_header(self) -> None:
        key, value = self._header
        self._headers[bytes(key).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _name_part(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if options.get(b"name") != FIELD.encode() or not options.get(b"filename"):
            raise Refusal(422, f"each part of the form must be a file with a name, of the field {FIELD!r}")
        self._name = _text(options[b"filename"])
        if len(self._name) > MAX_NAME:
            raise Refusal(422, f"a file's name has more than {MAX_NAME} characters")

    def _add(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._size > self.settings.max_file_bytes:
            raise _too_large(self._name, self.settings)
        self._pieces.append(data[start:end])

    def _end_part(self) -> None:
        self.contents.append(Content(self._name, b"".join(self._pieces)))
        self._pieces = []

    def _end(self) -> None:
        self.ended = True


def _text(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _too_many(settings: Settings) -> Refusal:
    return Refusal(413, f"the request has more than {settings.max_files} files")


def _too_large(name: str, settings: Settings) -> Refusal:
    return Refusal(413, f"has more than {settings.max_file_bytes} bytes", path=name)
