"""What the routes of one server share, and the way of a request through it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from fastapi import Request

from densecore.config import GenerationConfig
from densecore.llm import AsyncTextStream, DenseCore, GenerationResult
from densecore.server.errors import ApiError, from_engine, unavailable
from densecore.server.metrics import ServerMetrics
from densecore.server.records import RequestRecord
from densecore.server.registry import ModelEntry, ModelRegistry
from densecore.server.settings import ServerSettings

__all__ = ["Service", "collect", "error_of", "open_streams", "record_of", "service_of", "until_disconnected"]

Result = TypeVar("Result")


class Service:
    """Settings, models and figures of a server; `draining` is set when it is about to end."""

    def __init__(self, settings: ServerSettings, registry: ModelRegistry, metrics: ServerMetrics) -> None:
        self.settings, self.registry, self.metrics = settings, registry, metrics
        self.draining = False
        self.scoring = asyncio.Semaphore(1)  # of prompts, each of which takes memory

    @contextlib.asynccontextmanager
    async def use(self, name: str | None, record: RequestRecord) -> AsyncIterator[tuple[ModelEntry, DenseCore]]:
        """The model of that name, for a request; 503 while draining or loading, 404 if there is none."""
        if self.draining:
            raise unavailable("The server is shutting down", 5)
        async with self.registry.use(name) as entry:
            assert entry.model is not None
            record.model = entry.name
            yield entry, entry.model


def service_of(http: Request) -> Service:
    return http.app.state.service


def record_of(http: Request) -> RequestRecord:
    """What is noted about a request, see `middleware`."""
    return http.scope["state"]["record"]


async def open_streams(
    model: DenseCore, prompts: Sequence[tuple[list[int], GenerationConfig]], resources: AsyncExitStack
) -> list[AsyncTextStream]:
    """Start requests, which end when `resources` are closed. What is wrong with one is raised here."""
    return [
        await resources.enter_async_context(await model.open_stream(prompt_ids, config))
        for prompt_ids, config in prompts
    ]


async def collect(streams: Sequence[AsyncTextStream], record: RequestRecord) -> list[GenerationResult]:
    """The results of all streams, once they have ended."""

    async def drain(stream: AsyncTextStream) -> GenerationResult:
        async for _ in stream:
            record.token_sent()
        return checked(stream)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(drain(stream)) for stream in streams]
    return [task.result() for task in tasks]


def checked(stream: AsyncTextStream) -> GenerationResult:
    """The result of a stream that has ended; 503 if the model was closed meanwhile."""
    assert stream.result is not None
    if stream.result.finish_reason == "abort":
        raise unavailable("The model was unloaded while it worked on this request")
    return stream.result


async def until_disconnected(http: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled if the client goes away. The body must have been read."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(499, "the client went away")
        return task.result()
    except BaseExceptionGroup as group:  # of which the first is told
        raise group.exceptions[0] from None
    finally:
        for each in (task, gone):
            each.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await each


async def _disconnected(http: Request) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def error_of(error: Exception, service: Service) -> dict[str, Any]:
    """An error that ends a stream, which has begun with status 200, as the body of a frame."""
    return from_engine(error, service.metrics.expected_seconds()).body
