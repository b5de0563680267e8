"""The application: routes, middleware and the models' life, put together."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, Response

import densecore
from densecore.exceptions import DenseCoreError
from densecore.server import chat, completions, embeddings, metrics, models, page, probes, reference, tokens
from densecore.server.documentation import with_errors
from densecore.server.errors import ApiError, bad_request, from_engine
from densecore.server.metrics import ServerMetrics
from densecore.server.middleware import Gate
from densecore.server.registry import Load, ModelEntry, ModelRegistry
from densecore.server.service import Service, record_of, service_of
from densecore.server.settings import ServerSettings

if TYPE_CHECKING:
    from densecore.server.tracing import Tracing

__all__ = ["create_app"]

NUM_THREADS = 32
ROUTERS = (chat, completions, embeddings, models, tokens, page, reference, probes, metrics)


class _Api(FastAPI):
    """An application whose schema tells of errors, too, and whose pages load nothing from elsewhere."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            self.openapi_schema = with_errors(super().openapi())
        return self.openapi_schema


def create_app(
    settings: ServerSettings, entries: Sequence[ModelEntry], load: Load, tracing: Tracing | None = None
) -> FastAPI:
    """A server of the models `entries`, of which the first is loaded at once, in the background.

    load : makes a model of an entry; it is called in a thread
    tracing : of requests; by default as `settings` say
    """
    figures = ServerMetrics()
    registry = ModelRegistry(entries, load, settings.max_loaded_models, on_unload=figures.keep)
    figures.models = lambda: [entry.model for entry in registry.loaded() if entry.model is not None]
    service = Service(settings, registry, figures)
    if tracing is None and settings.tracing_enabled:
        from densecore.server.tracing import Tracing

        tracing = Tracing()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # Threads mostly wait: for grammars, templates and scores, which must not hold up each other.
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(NUM_THREADS, "densecore-server"))
        registry.start()
        yield
        await registry.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    app = _Api(title="DenseCore", version=densecore.__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.state.service = service
    for module in ROUTERS:
        app.include_router(module.router)
    for kind in (ApiError, DenseCoreError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_error)
    app.add_exception_handler(404, _answer_error)
    app.add_exception_handler(405, _answer_error)
    app.add_middleware(Gate, service=service, tracing=tracing)
    if settings.cors_enabled:  # outermost: pages may read errors, too, and what they ask first needs no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )
    return app


async def _answer_error(http: Request, error: Exception) -> Response:
    """Every error has the same form."""
    answer = _as_api_error(http, error)
    record_of(http).error = answer.code or answer.body["error"]["type"]
    allowed = {} if answer.status != 405 else getattr(error, "headers", None) or {}  # which methods there are
    return JSONResponse(answer.body, answer.status, answer.headers | allowed)


def _as_api_error(http: Request, error: Exception) -> ApiError:
    if isinstance(error, RequestValidationError):  # of parameters in the address; bodies are read elsewhere
        return bad_request(str(error.errors()[0]["msg"]))
    status = getattr(error, "status_code", None)
    if status is None:
        return from_engine(error, service_of(http).metrics.expected_seconds())
    if status == 404:
        return ApiError(404, f"There is no {http.method} {http.url.path[:200]} here", code="unknown_url")
    if status == 405:
        return ApiError(405, f"{http.url.path[:200]} does not answer to {http.method}")
    return ApiError(status, str(getattr(error, "detail", error)))
