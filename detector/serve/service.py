"""From a request to its answer: what is received, waits in line, is scored, and is no longer waited for."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from PIL import Image
from starlette.requests import Request

from detector.detection import Content, Detection
from detector.facts import Facts, read_facts
from detector.serve.admission import check
from detector.serve.bodies import Allowance, discard, receive
from detector.serve.judge import Judge
from detector.serve.metrics import Metrics
from detector.serve.pictures import Picture
from detector.serve.refusal import Refusal
from detector.serve.scorer import Closed, Expired, QueueFull, Scorer, retry_after
from detector.serve.settings import Settings


class ClientGone(Exception):
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Answer:
    """What a file's detection, facts and pictures are; None for those that nobody asked for."""

    detection: Detection
    facts: Facts | None
    pictures: list[Picture] | None


class Service:
    """A detector that answers requests, with the line in which they wait.

    Attributes:
        ready: whether it has scored a first picture.
        draining: whether it takes no more requests, and ends those that it has.
    """

    def __init__(self, judge: Judge, settings: Settings) -> None:
        self.judge, self.settings = judge, settings
        self.ready = self.draining = False
        self.allowance = Allowance(settings.max_held_bytes)
        self.metrics = Metrics(lambda: self.scorer.waiting, lambda: self.allowance.held)
        self.scorer = Scorer(
            judge.detect,
            judge.draw,
            queue=settings.queue,
            batch_size=settings.batch_size,
            delay=settings.delay,
            on_batch=self.metrics.batch,
        )

    async def start(self) -> None:
        """Scores a picture first, so that the first request does not wait for what is done once."""
        file = io.BytesIO()
        Image.new("RGB", (256, 256)).save(file, "PNG")
        await asyncio.to_thread(lambda: list(self.judge.detect([Content("first.png", file.getvalue())])))
        self.scorer.start()
        self.ready = True

    def drain(self) -> None:
        """Takes no more requests from now on, and ends those that it has soon."""
        self.draining = True
        self.scorer.hurry()

    async def stop(self) -> None:
        """Returns when all that waits was scored."""
        self.drain()
        await asyncio.to_thread(self.scorer.close)

    @property
    def state(self) -> str:
        """Why no request would be taken now, or "ready"."""
        if not self.ready:
            return "starting"
        if self.draining:
            return "ending"
        return "ready" if self.scorer.alive else "broken"

    async def ask(self, request: Request, *, facts: bool = False, drawn: bool = False) -> list[Answer]:
        """The answers to a request's files, in their order.

        Of several files, those that cannot be scored have a Detection with the error.

        Args:
            facts: whether facts are wanted.
            drawn: whether pictures are, of the one file that there is to be.

        Raises:
            Refusal: there is no answer.
            ClientGone: nor anyone who waits for it.
        """
        chunks = request.stream()
        with self.allowance.request() as held:
            try:
                self._check_open()
                contents = await receive(request.headers.get("content-type", ""), chunks, self.settings, held)
            except Refusal as refusal:
                asks_first = request.headers.get("expect", "").lower() == "100-continue"
                refusal.unread = asks_first or refusal.status == 408 or not await discard(chunks)
                raise
            if drawn and len(contents) != 1:
                raise Refusal(422, f"one file is explained at a time, got {len(contents)}")
            refusals = await asyncio.to_thread(self._check, contents)
            if len(contents) == 1 and refusals[0] is not None:
                self.metrics.images.labels("error").inc()
                raise refusals[0]
            futures = self._submit(
                [content for content, refusal in zip(contents, refusals, strict=True) if refusal is None], drawn
            )
            scored = iter(await self._wait(request, futures))
            found = [
                next(scored) if refusal is None else (Detection(refusal.path or "", error=refusal.reason), None)
                for refusal in refusals
            ]
            for detection, _ in found:
                self.metrics.images.labels(detection.verdict or "error").inc()
            if len(found) == 1 and found[0][0].error is not None:
                raise Refusal(422, found[0][0].error, path=found[0][0].path)
            known = await asyncio.to_thread(_facts_of, contents) if facts else [None] * len(contents)
            return [Answer(detection, fact, pictures) for (detection, pictures), fact in zip(found, known, strict=True)]

    def _check_open(self) -> None:
        if self.state != "ready":
            raise Refusal(503, f"the service is {self.state}", retry_after=1)
        if self.scorer.waiting >= self.settings.queue:
            raise _busy(1.0)

    def _check(self, contents: Sequence[Content]) -> list[Refusal | None]:
        def refusal(content: Content) -> Refusal | None:
            try:
                check(content, self.settings.max_pixels)
            except Refusal as error:
                return error
            return None

        return [refusal(content) for content in contents]

    def _submit(self, contents: list[Content], drawn: bool) -> list[Future[tuple[Detection, Any]]]:
        if not contents:
            return []
        try:
            return self.scorer.submit(contents, self.settings.timeout, drawn=drawn)
        except QueueFull as full:
            raise _busy(full.seconds) from None
        except Closed:
            raise Refusal(503, "the service is ending", retry_after=1) from None

    async def _wait(self, request: Request, futures: list[Future[tuple[Detection, Any]]]) -> list:
        """The results, unless it takes too long or nobody is there any more."""
        if not futures:
            return []
        results = asyncio.gather(*map(asyncio.wrap_future, futures))
        results.add_done_callback(_retrieved)
        gone = asyncio.ensure_future(_gone(request))
        try:
            both: set[asyncio.Future[Any]] = {results, gone}
            await asyncio.wait(both, timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED)
            if results.done():
                return results.result()
            if gone.done():
                raise ClientGone
            raise _late(any(future.running() for future in futures), self.settings.timeout)
        except Expired:
            raise _late(False, self.settings.timeout) from None
        finally:
            gone.cancel()
            results.cancel()


async def _gone(request: Request) -> None:
    """Returns when the client has closed the connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _retrieved(results: asyncio.Future[Any]) -> None:
    """Says that the outcome of what is no longer waited for is of no interest."""
    if not results.cancelled():
        results.exception()


def _busy(seconds: float) -> Refusal:
    return Refusal(429, "more files wait than the service takes on", retry_after=retry_after(seconds))


def _late(begun: bool, timeout: float) -> Refusal:
    if begun:
        return Refusal(504, f"scoring took longer than {timeout:g} s")
    return Refusal(503, f"the service did not come to it within {timeout:g} s", retry_after=1)


def _facts_of(contents: Sequence[Content]) -> list[Facts]:
    return [read_facts(content.data) for content in contents]
