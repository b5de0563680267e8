"""Server-sent events, framed by hand: a chunk costs a few microseconds."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

from fastapi.responses import StreamingResponse

from densecore.llm import AsyncTextStream, TextPiece

__all__ = ["DONE", "PING", "EventStream", "frame", "merged"]

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"
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
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def merged(
    streams: Sequence[AsyncTextStream], ping_seconds: float
) -> AsyncIterator[tuple[int, TextPiece | None] | None]:
    """Pieces of several streams as they come, as (index, piece); (index, None) is the end of one, which has its result.

    None alone: nothing has come for `ping_seconds`. The first error is raised.
    """
    pieces: asyncio.Queue[tuple[int, TextPiece | None] | Exception] = asyncio.Queue()

    async def pump(index: int, stream: AsyncTextStream) -> None:
        try:
            async for piece in stream:
                pieces.put_nowait((index, piece))
            pieces.put_nowait((index, None))
        except Exception as error:
            pieces.put_nowait(error)

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    running = len(tasks)
    try:
        while running:
            try:
                piece = await asyncio.wait_for(pieces.get(), ping_seconds)
            except TimeoutError:
                yield None
                continue
            if isinstance(piece, Exception):
                raise piece
            running -= piece[1] is None
            yield piece
    finally:
        for task in tasks:
            task.cancel()
