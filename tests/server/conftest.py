"""Servers in this process, each on a free port, and the official client for them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from densecore.data import builtin_model_path
from densecore.llm import DenseCore
from densecore.server.app import create_app
from densecore.server.registry import ModelEntry, load_model
from densecore.server.serving import Server, listen
from densecore.server.settings import ServerSettings
from tests.gguf_factory import make_model

KEY = "sk-test"


class Running:
    """A server that listens, and clients for it."""

    def __init__(self, server: Server, app: Any, port: int) -> None:
        self.server, self.service = server, app.state.service
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def openai(self, **options: Any) -> openai.OpenAI:
        options = {"api_key": KEY, "max_retries": 0, "timeout": 60} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    @property
    def model(self) -> DenseCore:
        model = self.service.registry.default.model
        assert model is not None
        return model

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json=body)

    def wait_until(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    def wait_until_ready(self) -> None:
        self.wait_until(lambda: self.http.get("/health").status_code == 200, 120)

    def wait_until_idle(self) -> None:
        """No request is served, and every block is free."""
        self.wait_until(lambda: self.service.metrics.num_active == 0)

        def is_idle() -> bool:
            figures = self.model.get_metrics()
            return figures["kv_cache_blocks_used"] == 0 == figures["active_requests"] + figures["waiting_requests"]

        self.wait_until(is_idle)


@contextlib.contextmanager
def running(
    paths: dict[str, Path],
    *,
    load: Any = None,
    ready: bool = True,
    options: Any = None,
    tracing: Any = None,
    **settings: Any,
) -> Iterator[Running]:
    """A server of these models, in a thread of its own."""
    chosen = ServerSettings(**({"port": 0, "shutdown_timeout": 10.0} | settings))
    entries = [ModelEntry(name, path) for name, path in paths.items()]
    app = create_app(chosen, entries, load or (lambda entry: load_model(entry, options or {})), tracing)
    server = Server(app, chosen)
    with listen("127.0.0.1", 0) as sock:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
        thread.start()
        found = Running(server, app, sock.getsockname()[1])
        try:
            if ready:
                found.wait_until_ready()
            yield found
        finally:
            found.http.close()
            server.should_exit = True
            thread.join(30)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama with a context of 256 tokens."""
    return make_model(tmp_path_factory.mktemp("models") / "tiny.gguf", n_layers=1)


@pytest.fixture(scope="module")
def builtin() -> Iterator[Running]:
    """The model that writes Python."""
    with running({"pystd-6m": builtin_model_path()}) as server:
        yield server
