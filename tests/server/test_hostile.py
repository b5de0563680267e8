"""Requests that no client means, and some that mean harm: 4xx each, never 5xx, and the server goes on."""

from __future__ import annotations

import json
import socket
import time

import pytest

from .conftest import Running, running

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "ab"}]
BIG = 10**400


@pytest.fixture(scope="module")
def server(tiny_path):
    """A server that soon loses patience."""
    with running({"tiny": tiny_path}, receive_timeout=1.0, max_body_bytes=2**20) as found:
        yield found
        assert found.post(CHAT, messages=HELLO, max_tokens=2).status_code == 200
        found.wait_until_idle()


def chat(**fields: object) -> bytes:
    return json.dumps({"messages": HELLO, "max_tokens": 3} | fields).encode()


BODIES = {
    "empty": b"",
    "not JSON": b"{",
    "a list": b"[]",
    "a string": b'"messages"',
    "null": b"null",
    "NaN": b'{"messages": [], "temperature": NaN}',
    "Infinity": b'{"messages": [], "temperature": -Infinity}',
    "1e400": b'{"messages": [], "temperature": 1e400}',
    "5000 digits": b'{"messages": [], "seed": ' + b"9" * 5000 + b"}",
    "400 digits": b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": ' + str(BIG).encode() + b"}",
    "deep lists": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep objects": b'{"messages": ' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}",
    "97 levels": b'{"user": ' + b"[" * 97 + b"]" * 97 + b"}",
    "bad UTF-8": b'{"messages": [{"role": "user", "content": "\xff"}]}',
    "lone surrogate": rb'{"messages": [{"role": "user", "content": "\ud800"}]}',
    "surrogate as a name": rb'{"\udfff": 1, "messages": []}',
    "twice": b'{"messages": [], "messages": []}',
    "a null byte": b'{"messages": []}\x00',
    "UTF-16": json.dumps({"messages": HELLO}).encode("utf-16"),
    "no messages": b"{}",
    "empty messages": chat(messages=[]),
    "message is a string": chat(messages=["hi"]),
    "role is a list": chat(messages=[{"role": ["user"], "content": "a"}]),
    "role unknown": chat(messages=[{"role": "robot", "content": "a"}]),
    "content is a number": chat(messages=[{"role": "user", "content": 3}]),
    "content is nested": chat(messages=[{"role": "user", "content": [[["a"]]]}]),
    "calls are numbers": chat(messages=[{"role": "assistant", "tool_calls": [1]}]),
    "arguments are no JSON": chat(
        messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]
    ),
    "temperature is a string": chat(temperature="0.5"),
    "temperature is true": chat(temperature=True),
    "max_tokens is 1.5": chat(max_tokens=1.5),
    "max_tokens is 0": chat(max_tokens=0),
    "max_tokens is negative": chat(max_tokens=-1),
    "n is 0": chat(n=0),
    "n is a million": chat(n=10**6),
    "top_logprobs is a million": chat(logprobs=True, top_logprobs=10**6),
    "top_logprobs alone": chat(top_logprobs=2),
    "top_k is negative": chat(top_k=-5),
    "stop is a number": chat(stop=3),
    "stop has an empty string": chat(stop=[""]),
    "a thousand stops": chat(stop=[str(number) for number in range(1000)]),
    "a long stop": chat(stop="x" * 100_000),
    "logit_bias of an unknown token": chat(logit_bias={"99999999": 1}),
    "logit_bias of a word": chat(logit_bias={"a": 1}),
    "logit_bias of 1000": chat(logit_bias={"5": 1000}),
    "response_format unknown": chat(response_format={"type": "xml"}),
    "response_format without a schema": chat(response_format={"type": "json_schema"}),
    "schema is deep": chat(
        response_format={"type": "json_schema", "json_schema": {"schema": json.loads('{"not":' * 80 + "{}" + "}" * 80)}}
    ),
    "schema unsupported": chat(
        response_format={"type": "json_schema", "json_schema": {"schema": {"type": "array", "uniqueItems": True}}}
    ),
    "grammar is wrong": chat(grammar="start: ("),
    "regex is wrong": chat(regex="("),
    "two structures": chat(regex="a", choice=["b"]),
    "tools are strings": chat(tools=["f"]),
    "a tool without a name": chat(tools=[{"type": "function", "function": {}}]),
    "a tool with a name of spaces": chat(tools=[{"type": "function", "function": {"name": "a b"}}]),
    "tool_choice without tools": chat(tool_choice="required"),
    "tool_choice unknown": chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice="perhaps"),
    "tool_choice of another function": chat(
        tools=[{"type": "function", "function": {"name": "f"}}],
        tool_choice={"type": "function", "function": {"name": "g"}},
    ),
    "too many tools": chat(tools=[{"type": "function", "function": {"name": f"f{i}"}} for i in range(200)]),
    "template variables": chat(chat_template_kwargs={"messages": []}),
    "timeout is 0": chat(timeout=0),
    "cache_salt is long": chat(cache_salt="x" * 1000),
    "stream is a string": chat(stream="yes"),
    "stream of a bad request": chat(stream=True, temperature=-1),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bad_chats(server: Running, body: bytes) -> None:
    answer = server.http.post(CHAT, content=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert 0 < len(error["message"]) < 1000
    assert set(error) == {"message", "type", "param", "code"}


PROMPTS = {
    "none": None,
    "empty list": [],
    "list of empty lists": [[]],
    "negative id": [-1],
    "id beyond the vocabulary": [10**6],
    "id beyond 64 bits": [10**30],
    "floats": [1.5],
    "booleans": [True],
    "mixed": ["a", 3],
    "deep": [[[1]]],
    "an object": {"a": 1},
    "too many": ["a"] * 2000,
    "too long": [5] * 500,
}


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("more", [{}, {"echo": True, "logprobs": 1, "max_tokens": 0}], ids=["plain", "echo"])
def test_bad_prompts(server: Running, prompt: object, more: dict) -> None:
    answer = server.http.post(COMPLETIONS, content=json.dumps({"prompt": prompt} | more))
    assert answer.status_code == 400, answer.text


@pytest.mark.parametrize(
    "fields",
    [
        {"suffix": "x"},
        {"best_of": 5},
        {"max_tokens": 0},
        {"logprobs": -1},
        {"logprobs": 1000},
        {"n": 128, "prompt": ["a"] * 9},
    ],
    ids=str,
)
def test_bad_completions(server: Running, fields: dict) -> None:
    assert server.post(COMPLETIONS, **({"prompt": "ab"} | fields)).status_code == 400


def test_null_is_nothing_and_unknown_is_ignored(server: Running) -> None:
    from densecore.server.schemas import ChatRequest, CompletionRequest

    nulls = {name: None for name in ChatRequest.model_fields if name != "messages"}
    answer = server.post(CHAT, messages=HELLO, invented={"a": [1]}, **nulls)
    assert answer.status_code == 200
    nulls = {name: None for name in CompletionRequest.model_fields if name != "prompt"}
    assert server.post(COMPLETIONS, prompt="ab", invented=3, **nulls).status_code == 200
    parts = [{"role": "user", "content": "ab", "name": None, "tool_calls": None}]
    assert server.post(CHAT, messages=parts, max_tokens=2, seed=-1).status_code == 200


def test_other_routes(server: Running) -> None:
    assert server.post("/tokenize").status_code == 400
    assert server.post("/detokenize", tokens=[10**9]).status_code == 400
    assert server.post("/detokenize", tokens="ab").status_code == 400
    assert server.http.get(CHAT).status_code == 405
    assert server.http.get("/no/such/page").json()["error"]["type"] == "not_found_error"
    assert server.http.get("/v1/models/..%2f..%2fetc%2fpasswd").status_code == 404


class TestSizes:
    def test_large_bodies(self, server: Running) -> None:
        body = chat(user="x" * 2**20)
        assert server.http.post(CHAT, content=body).status_code == 413

        def pieces():
            for _ in range(64):
                yield b" " * 2**15

        assert server.http.post(CHAT, content=pieces()).status_code == 413
        answer = raw(
            server, b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n"
        )
        assert answer.startswith(b"HTTP/1.1 413")

    def test_large_heads(self, server: Running) -> None:
        answer = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 2**20 + b"\r\n\r\n")
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")

    def test_many_headers(self, server: Running) -> None:
        lines = b"".join(b"X-%d: y\r\n" % number for number in range(100_000))
        answer = raw(server, b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n")
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")

    @pytest.mark.parametrize(
        "path", [b"/\xff", b"/%ff%0a%00", b"//", b"/v1/models/%0d%0aX: y", b"http://evil.example/"]
    )
    def test_odd_paths(self, server: Running, path: bytes) -> None:
        answer = raw(server, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4")

    def test_no_http_at_all(self, server: Running) -> None:
        assert raw(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20).startswith(b"HTTP/1.1 400")


class TestSlowClients:
    def test_a_head_that_never_ends(self, server: Running) -> None:
        started = time.monotonic()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
            client.sendall(b"GET /health HTTP/1.1\r\nHost: loc")
            assert client.recv(100) == b""
        assert time.monotonic() - started < 5

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
