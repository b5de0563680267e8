"""From the events of running requests to the frames of a streamed answer, whatever its chunks look like."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Protocol

from densecore.llm import AsyncTextStream, GenerationResult, TextPiece
from densecore.server.records import RequestRecord
from densecore.server.service import Service, checked, error_of
from densecore.server.sse import DONE, PING, frame

__all__ = ["Chunks", "frames"]


class Chunks(Protocol):
    """How one kind of answer is told in chunks."""

    def begin(self) -> Iterable[bytes]:
        """What comes before all text."""

    def piece(self, index: int, piece: TextPiece) -> Iterable[bytes]:
        """New text of an answer; none if nothing of it is certain yet."""

    def end(self, index: int, result: GenerationResult) -> Iterable[bytes]:
        """The end of an answer."""

    def usage(self, results: Sequence[GenerationResult]) -> Iterable[bytes]:
        """What comes after all answers."""


async def frames(
    chunks: Chunks, streams: Sequence[AsyncTextStream], service: Service, record: RequestRecord
) -> AsyncIterator[bytes]:
    """The whole stream; what has come at the same time is sent at once, in as many events.

    An error, too, is an event, the last one.
    """
    results: dict[int, GenerationResult] = {}
    opening = b"".join(chunks.begin())
    if opening:
        yield opening
    with _Arrivals(streams, service.settings.ping_seconds) as arrivals:
        while len(results) < len(streams):
            events = await arrivals.take()
            parts: list[bytes] = [] if events else [PING]
            try:
                for index, event in events:
                    piece = streams[index].take(event)
                    if piece is not None:
                        record.token_sent()
                        parts += chunks.piece(index, piece)
                    else:
                        results[index] = checked(streams[index])
                        parts += chunks.end(index, results[index])
            except Exception as error:
                body = error_of(error, service)
                record.error = body["error"]["code"] or body["error"]["type"]
                yield b"".join([*parts, frame(body)])
                return
            if parts:
                yield b"".join(parts)
    record.results = [results[index] for index in sorted(results)]
    yield b"".join([*chunks.usage(record.results), DONE])


class _Arrivals:
    """Events of several streams, as (index, event) in the order in which they come.

    It also notices when nothing has come for `ping_seconds`, by one timer for all of a stream: one for each piece of
    text would cost more than the text.
    """

    def __init__(self, streams: Sequence[AsyncTextStream], ping_seconds: float) -> None:
        self._streams, self._ping_seconds = streams, ping_seconds
        self._loop = asyncio.get_running_loop()
        self._events: list[tuple[int, Any]] = []
        self._waiter: asyncio.Future[None] | None = None

    async def take(self) -> list[tuple[int, Any]]:
        """All that have come since; waits for one, and is empty when it is time for a ping."""
        if not self._events:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        taken, self._events = self._events, []
        self._last = self._loop.time()
        return taken

    def _put(self, index: int, event: Any) -> None:
        self._events.append((index, event))
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __enter__(self) -> _Arrivals:
        self._last = self._loop.time()
        self._timer = self._loop.call_later(self._ping_seconds, self._look)
        for index, stream in enumerate(self._streams):
            stream.redirect(functools.partial(self._put, index))
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._last >= self._ping_seconds:
            self._last = now
            self._wake()
        self._timer = self._loop.call_at(self._last + self._ping_seconds, self._look)
