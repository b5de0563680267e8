"""A client that reads nothing for long is given up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from densecore.server.errors import ApiError
from densecore.server.records import RequestRecord

__all__ = ["reading_client"]

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]


@asynccontextmanager
async def reading_client(send: Send, seconds: float, record: RequestRecord) -> AsyncIterator[Send]:
    """`send`, which within the context may wait for its client for `seconds` at a time; beyond that, ApiError.

    One timer looks after all of an answer: one for each piece of a stream costs as much as writing it does.
    """
    watch = _Watch(send, seconds)
    try:
        async with asyncio.timeout(None) as limit:
            with watch.over(limit):
                yield watch.send
    except TimeoutError:
        if not limit.expired():
            raise
        record.cancelled = True
        raise ApiError(499, f"the client has read nothing for {seconds:g} s") from None


class _Watch:
    """Lets a time limit expire when a message has waited for `seconds`."""

    def __init__(self, send: Send, seconds: float) -> None:
        self._send, self._seconds = send, seconds
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None  # when the message that waits began to

    async def send(self, message: Message) -> None:
        self._since = self._loop.time()
        await self._send(message)
        self._since = None

    @contextmanager
    def over(self, limit: asyncio.Timeout) -> Iterator[None]:
        self._limit = limit
        self._timer = self._loop.call_later(self._seconds, self._look)
        try:
            yield
        finally:
            self._timer.cancel()

    def _look(self) -> None:
        now = self._loop.time()
        since = now if self._since is None else self._since
        if now - since >= self._seconds:
            self._limit.reschedule(now)
        else:
            self._timer = self._loop.call_at(since + self._seconds, self._look)
