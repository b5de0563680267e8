"""Runs the application: uvicorn, with limits for slow clients, and an end that lets requests finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from densecore.server.garbage import settle
from densecore.server.service import Service
from densecore.server.settings import ServerSettings

__all__ = ["Server", "serve"]

KEEP_ALIVE_SECONDS = 75  # longer than proxies in front keep their connections, so that none is closed in their hands
POLL_SECONDS = 0.05


def serve(app: FastAPI, settings: ServerSettings) -> int:
    """Serve until a signal; the exit status: 0 after SIGTERM, 130 after Ctrl-C. The process is the server's own."""
    app.state.service.registry.on_change = settle
    server = Server(app, settings)
    server.run(sockets=[listen(settings.host, settings.port)])
    return 130 if server.signal == signal.SIGINT else 0


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; OSError if somebody else does."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    # With the protocol named, asyncio turns off Nagle's algorithm on connections, which would hold back what follows a
    # small piece for 40 ms.
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
        found.listen(2048)
    except OSError as error:
        found.close()
        raise OSError(error.errno, error.strerror, f"{host}:{port}") from None
    return found


class Server(uvicorn.Server):
    """Drains on the first signal: new requests get 503 while those that run may end; the second signal ends all."""

    def __init__(self, app: FastAPI, settings: ServerSettings) -> None:
        self.signal: int | None = None
        self._service: Service = app.state.service
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        super().__init__(
            uvicorn.Config(
                app,
                http=_protocol(settings.receive_timeout),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                h11_max_incomplete_event_size=settings.max_header_bytes,
                timeout_graceful_shutdown=1,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called in the middle of whatever the main thread does."""
        if self.signal is not None or self._loop is None:
            self.should_exit = self.force_exit = True
            return
        self.signal = sig
        self._loop.call_soon_threadsafe(self.begin_drain)

    def begin_drain(self) -> None:
        """Take no more requests, and end when those that run have ended, or after the time they have."""
        if self._draining is None:
            self._service.draining = True
            self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._service.settings.shutdown_timeout):
                while self._service.metrics.num_active:
                    await asyncio.sleep(POLL_SECONDS)
        self.should_exit = True


def _protocol(seconds: float) -> type[H11Protocol]:
    """uvicorn's protocol, which cuts off clients that take longer than `seconds` to send a request's head."""

    class Protocol(H11Protocol):
        _head_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._await_head()

        def data_received(self, data: bytes) -> None:
            before = self.cycle
            super().data_received(data)
            if self.cycle is not before:
                self._stop_waiting()
            elif self.cycle is None or self.cycle.response_complete:
                self._await_head()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            super().connection_lost(exc)

        def _await_head(self) -> None:
            if self._head_timer is None:
                self._head_timer = self.loop.call_later(seconds, self._give_up)

        def _stop_waiting(self) -> None:
            if self._head_timer is not None:
                self._head_timer.cancel()
                self._head_timer = None

        def _give_up(self) -> None:
            self._head_timer = None
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return Protocol
