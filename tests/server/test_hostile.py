"""Requests that no client means, and some that mean harm: 4xx in a second, never 5xx, and the server goes on."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import pytest

from .conftest import Running, running
from .hostile_requests import CHAT, COMPLETIONS, HELLO, RAW, REQUESTS

Answer = TypeVar("Answer")


@pytest.fixture(scope="module")
def server(tiny_path):
    """A server that soon loses patience."""
    with running({"tiny": tiny_path}, receive_timeout=1.0, max_body_bytes=2**20) as found:
        yield found
        found.wait_until_idle()


def check_health(server: Running) -> None:
    """The server takes requests, and answers them as ever."""
    assert server.http.get("/health").status_code == 200
    answer = server.post(COMPLETIONS, prompt="ab", max_tokens=2, temperature=0, ignore_eos=True)
    assert answer.json()["usage"]["completion_tokens"] == 2


def quickly(ask: Callable[[], Answer]) -> Answer:
    """What `ask` gets within a second; other work on the machine may spoil that twice."""
    for _ in range(3):
        started = time.monotonic()
        answer = ask()
        if time.monotonic() - started < 1:
            return answer
    raise AssertionError("it took more than a second, three times")


def test_there_are_many() -> None:
    assert len(REQUESTS) + len(RAW) >= 120


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_hostile_requests(server: Running, request_: tuple[str, str, dict[str, str], bytes]) -> None:
    method, path, headers, body = request_
    answer = quickly(lambda: server.http.request(method, path, headers=headers, content=body))
    assert 400 <= answer.status_code < 500, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 0 < len(error["message"]) < 1000
    check_health(server)


@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
def test_hostile_bytes(server: Running, data: bytes) -> None:
    answer = quickly(lambda: raw(server, data))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
    check_health(server)


def test_null_is_nothing_and_unknown_is_ignored(server: Running) -> None:
    from densecore.server.schemas import ChatRequest, CompletionRequest

    nulls = {name: None for name in ChatRequest.model_fields if name != "messages"}
    answer = server.post(CHAT, messages=HELLO, invented={"a": [1]}, **nulls)
    assert answer.status_code == 200
    nulls = {name: None for name in CompletionRequest.model_fields if name != "prompt"}
    assert server.post(COMPLETIONS, prompt="ab", invented=3, **nulls).status_code == 200
    parts = [{"role": "user", "content": "ab", "name": None, "tool_calls": None}]
    assert server.post(CHAT, messages=parts, max_tokens=2, seed=-1).status_code == 200


def test_a_body_in_pieces_that_is_too_large(server: Running) -> None:
    def pieces():
        for _ in range(64):
            yield b" " * 2**15

    assert server.http.post(CHAT, content=pieces()).status_code == 413


class TestSlowClients:
    def test_a_head_that_never_ends(self, server: Running) -> None:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
            assert client.recv(100) == b""
        assert time.monotonic() - started < 9  # the socket's own patience is 10 s

    def test_a_body_that_never_ends(self, server: Running) -> None:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n"
        assert raw(server, head + b'{"prompt"').startswith(b"HTTP/1.1 408")

    def test_nothing_at_all(self, server: Running) -> None:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            assert client.recv(100) == b""


def raw(server: Running, data: bytes) -> bytes:
    """What the server answers to bytes; empty if it closes the connection."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        try:
            client.sendall(data)
            return client.recv(4096)
        except ConnectionError:
            return b""
