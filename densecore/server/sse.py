"""Server-sent events, framed by hand: a chunk costs a few microseconds."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse

from densecore.llm import AsyncTextStream, TextPiece

__all__ = ["DONE", "PING", "EventStream", "frame", "merged"]

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class EventStream(StreamingResponse):
    """The response that sends frames as they come, and closes `resources` in the end, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncIterator[bytes], resources: AsyncExitStack) -> None:
        super().__init__(frames, headers=HEADERS)
        self._resources = resources

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with self._resources:
            await super().__call__(scope, receive, send)


def frame(value: Mapping[str, Any]) -> bytes:
    """One event: a JSON object on a line."""
    return b"data: " + _encode(value).encode() + b"\n\n"


async def merged(
    streams: Sequence[AsyncTextStream], ping_seconds: float
) -> AsyncIterator[tuple[int, TextPiece | None] | None]:
    """Pieces of several streams as they come, as (index, piece); (index, None) is the end of one, which has its result.

    None alone: nothing has come for `ping_seconds`. The first error is raised.
    """
    events: asyncio.Queue[tuple[int, Any] | None] = asyncio.Queue()

    def put(index: int, event: Any) -> None:
        events.put_nowait((index, event))

    for index, stream in enumerate(streams):
        stream.redirect(functools.partial(put, index))
    running = len(streams)
    with _Pings(ping_seconds, lambda: events.put_nowait(None)) as pings:
        while running:
            event = await events.get()
            if event is None:
                yield None
                continue
            pings.last = pings.loop.time()
            piece = streams[event[0]].take(event[1])
            running -= piece is None
            yield event[0], piece


class _Pings:
    """Calls `ping` whenever nothing has happened for `seconds`; a timer a piece of text would cost more than the text.

    last : when something happened, by the loop's clock
    """

    def __init__(self, seconds: float, ping: Callable[[], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self.last = self.loop.time()
        self._seconds, self._ping = seconds, ping

    def __enter__(self) -> _Pings:
        self._timer = self.loop.call_later(self._seconds, self._look)
        return self

    def __exit__(self, *exception: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        now = self.loop.time()
        if now - self.last >= self._seconds:
            self.last = now
            self._ping()
        self._timer = self.loop.call_at(self.last + self._seconds, self._look)
