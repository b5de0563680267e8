"""The models of a server: loaded in the background, named by clients, at most so many at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densecore.llm import DenseCore
from densecore.server.errors import ApiError, model_not_found, unavailable

__all__ = ["ModelEntry", "ModelRegistry"]

logger = logging.getLogger("densecore.server")

Load = Callable[["ModelEntry"], DenseCore]


@dataclass(eq=False)
class ModelEntry:
    """A model that clients may name.

    state : ``unloaded``, ``loading``, ``ready`` or ``failed``; `error` tells why it failed.
    progress : what loading is at.
    active : requests that it works on.
    """

    name: str
    path: Path
    draft_path: Path | None = None
    state: str = "unloaded"
    error: str = ""
    progress: str = ""
    model: DenseCore | None = None
    active: int = 0
    last_used: float = 0.0
    created: int = field(default_factory=lambda: int(time.time()))


def load_model(entry: ModelEntry, options: dict[str, Any]) -> DenseCore:
    """Open a model's file and compile the kernels that it needs.

    Unless `options` say otherwise the KV cache's memory is taken now, so that a machine that has promised too much
    says so before the server is ready, not in the middle of somebody's answer.
    """
    entry.progress = "reading the model's file"
    model = DenseCore(entry.path, draft_model_path=entry.draft_path, **({"preallocate_kv_cache": True} | options))
    try:
        entry.progress = "compiling kernels"
        model.compile_kernels()
    except BaseException:
        model.close()
        raise
    return model


async def _in_thread(load: Callable[[], DenseCore]) -> DenseCore:
    """The result of `load`, computed in a thread that the end of the process does not wait for."""
    future: Future[DenseCore] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(load())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=work, name="densecore-load", daemon=True).start()
    return await asyncio.wrap_future(future)


class ModelRegistry:
    """Finds models by name. All methods are called on the event loop.

    load : makes a model, in a thread of its own
    max_loaded : beyond that the idle model that was not used for longest goes
    on_unload : called with a model before it is closed
    """

    def __init__(
        self,
        entries: Sequence[ModelEntry],
        load: Load,
        max_loaded: int = 1,
        on_unload: Callable[[DenseCore], None] = lambda model: None,
    ) -> None:
        self.entries = {entry.name: entry for entry in entries}
        self.default = entries[0]
        self._load, self._max_loaded, self._on_unload = load, max_loaded, on_unload
        self.started: set[str] = set()  # names of models that have been loaded once
        self._tasks: set[asyncio.Task] = set()
        self.on_change: Callable[[], object] = lambda: None  # called when a model has come or gone

    def start(self) -> None:
        """Begin to load the first model."""
        self._begin(self.default)

    def find(self, name: str | None) -> ModelEntry:
        """The model of that name; without one, or of a server's only model, the first. 404 if there is none."""
        if not name:
            return self.default
        entry = self.entries.get(name)
        if entry is None:
            raise model_not_found(name, list(self.entries))
        return entry

    @contextlib.asynccontextmanager
    async def use(self, name: str | None) -> AsyncIterator[ModelEntry]:
        """The model of that name, which stays loaded within the context; one that is unloaded is loaded first.

        503 while it is being loaded for somebody else, or has failed.
        """
        entry = self.find(name)
        if entry.state == "loading":
            raise unavailable(f"The model {entry.name!r} is being loaded: {entry.progress}")
        if entry.state != "ready":
            await self.load(entry)
        entry.active += 1
        entry.last_used = time.monotonic()
        try:
            yield entry
        finally:
            entry.active -= 1
            entry.last_used = time.monotonic()

    async def load(self, entry: ModelEntry) -> None:
        """Load a model, and wait until it is there. 503 if it cannot be."""
        if entry.state != "ready":
            task = self._begin(entry) if entry.state != "loading" else None
            if task is None:
                raise unavailable(f"The model {entry.name!r} is being loaded: {entry.progress}")
            await asyncio.shield(task)
        if entry.model is None:
            raise unavailable(f"The model {entry.name!r} cannot be loaded: {entry.error}", 30)

    async def unload(self, entry: ModelEntry, *, force: bool = False) -> bool:
        """Close a model; False if it was not loaded. 409 if requests use it, unless `force` ends them."""
        if entry.state == "loading":
            raise ApiError(409, f"The model {entry.name!r} is being loaded")
        if entry.model is None:
            return False
        if entry.active and not force:
            raise ApiError(409, f"The model {entry.name!r} works on {entry.active} requests; force ends them")
        await self._close(entry)
        self.on_change()
        return True

    async def close(self) -> None:
        """Close all models. What is being loaded is left to itself, as the process is about to end."""
        for task in self._tasks:
            task.cancel()
        for entry in self.entries.values():
            if entry.model is not None:
                await self._close(entry)

    def loaded(self) -> Iterator[ModelEntry]:
        return (entry for entry in self.entries.values() if entry.model is not None)

    def _begin(self, entry: ModelEntry) -> asyncio.Task:
        self._check_room()
        entry.state, entry.error, entry.progress = "loading", "", "waiting for room"
        task = asyncio.create_task(self._load_in_background(entry))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _check_room(self) -> None:
        busy = [entry for entry in self.entries.values() if entry.state == "loading" or entry.active]
        if len(busy) >= self._max_loaded:
            raise unavailable(f"{len(busy)} models are in use, as many as max_loaded_models allows", 5)

    async def _load_in_background(self, entry: ModelEntry) -> None:
        started = time.monotonic()
        try:
            await self._make_room()
            entry.model = await _in_thread(lambda: self._load(entry))
            self.on_change()
        except Exception as error:
            entry.state, entry.error = "failed", str(error) or type(error).__name__
            logger.error("model %s cannot be loaded: %s", entry.name, entry.error)
            return
        self.started.add(entry.name)
        entry.state, entry.progress, entry.last_used = "ready", "", time.monotonic()
        logger.info("model %s is ready after %.1f s", entry.name, time.monotonic() - started)

    async def _make_room(self) -> None:
        """Unload idle models until one more may be there."""
        while len(loaded := list(self.loaded())) >= self._max_loaded:
            idle = [entry for entry in loaded if not entry.active]
            if not idle:
                raise RuntimeError("all models that are loaded are in use")
            await self._close(min(idle, key=lambda entry: entry.last_used))
            self.on_change()  # so that there is room for the next

    async def _close(self, entry: ModelEntry) -> None:
        model, entry.model, entry.state = entry.model, None, "unloaded"
        if model is not None:
            self._on_unload(model)
            await asyncio.to_thread(model.close)
            logger.info("model %s is unloaded", entry.name)
