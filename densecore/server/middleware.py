"""What every request goes through before its route, and after: id, host, key, rate, log line, figures."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from fastapi.responses import JSONResponse

from densecore.server.auth import check_host, check_origin, client_of, find_key
from densecore.server.errors import ApiError, from_engine
from densecore.server.logs import log_request
from densecore.server.probes import OPEN_PATHS
from densecore.server.rate_limit import RateLimiter
from densecore.server.records import RequestRecord
from densecore.server.service import Service
from densecore.server.slow_clients import reading_client

if TYPE_CHECKING:
    from densecore.server.tracing import Tracing

__all__ = ["Gate"]

logger = logging.getLogger("densecore.server")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

GENERATING = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/rerank", "/rerank")
MAX_ID_LENGTH = 128


class Gate:
    """ASGI middleware around the whole application.

    It is plain ASGI, as a stream must be able to see that its client goes away.
    """

    def __init__(self, app: App, service: Service, tracing: Tracing | None = None) -> None:
        self._app, self._service, self._tracing = app, service, tracing
        settings = service.settings
        self._limiter = (
            RateLimiter(settings.rate_limit_rps, settings.rate_limit_burst) if settings.rate_limit_enabled else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # is answered as GET is; whoever speaks HTTP leaves the body out
            scope = {**scope, "method": "GET"}
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        record = RequestRecord(_request_id(headers), scope["method"], scope["path"])
        record.generates = scope["method"] == "POST" and scope["path"] in GENERATING
        scope.setdefault("state", {})["record"] = record
        span = self._tracing.begin(headers, record) if self._tracing is not None else None
        if record.generates:
            self._service.metrics.begin()
        try:
            await self._guarded(scope, _receiver(receive, record), _sender(send, record), headers, record)
        finally:
            if record.generates:
                self._service.metrics.end(record)
            if self._tracing is not None:
                self._tracing.end(span, scope, record)
            log_request(record.to_json())

    async def _guarded(
        self, scope: Scope, receive: Receive, send: Send, headers: dict[str, str], record: RequestRecord
    ) -> None:
        """Let the request in, or answer it with the error; whatever the application raises is an answer, too."""
        try:
            self._check(scope, headers)
            async with reading_client(send, self._service.settings.send_timeout, record) as send_in_time:
                await self._app(scope, receive, send_in_time)
        except asyncio.CancelledError:
            record.cancelled = True
            raise
        except Exception as error:
            if record.cancelled:  # nobody is there to be told
                return
            answer = from_engine(error, self._service.metrics.expected_seconds())
            record.error = answer.code or answer.body["error"]["type"]
            if answer.code == "internal_error":
                logger.exception("request %s failed", record.request_id)
            if not record.status:
                await JSONResponse(answer.body, answer.status, answer.headers)(scope, receive, send)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        settings, path = self._service.settings, scope["path"]
        if settings.is_loopback:
            check_host(headers.get("host", ""))
        if scope["method"] not in ("GET", "HEAD"):
            check_origin(headers, settings.cors_origins if settings.cors_enabled else ())
        key = None
        if settings.auth_enabled and path not in OPEN_PATHS:
            key = find_key(headers, settings.api_keys)
        if self._limiter is not None and path not in OPEN_PATHS:
            address = scope["client"][0] if scope.get("client") else ""
            wait = self._limiter.take(client_of(key, address))
            if wait:
                message = f"More than {settings.rate_limit_rps:g} requests a second; try again in {wait:.1f} s"
                raise ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)


def _sender(send: Send, record: RequestRecord) -> Send:
    """Sends what the application sends, with the request's id."""

    async def send_message(message: Message) -> None:
        if message["type"] == "http.response.start":
            record.status = message["status"]
            added = [(b"x-request-id", record.request_id.encode()), (b"x-content-type-options", b"nosniff")]
            message["headers"] = [*message.get("headers", []), *added]
        await send(message)
        record.complete = message["type"] == "http.response.body" and not message.get("more_body")

    return send_message


def _receiver(receive: Receive, record: RequestRecord) -> Receive:
    """Receives what the client sends, and notes if it goes away too early."""

    async def receive_message() -> Message:
        message = await receive()
        if message["type"] == "http.disconnect" and not record.complete:
            record.cancelled = True
        return message

    return receive_message


def _request_id(headers: dict[str, str]) -> str:
    """The client's own id for the request, if it is printable and short, or a new one."""
    given = headers.get("x-request-id", "")
    if 0 < len(given) <= MAX_ID_LENGTH and given.isascii() and given.isprintable():
        return given
    return uuid.uuid4().hex
