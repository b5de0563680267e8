"""Requests that no client means, and some that mean harm; each must be answered with a status of 4xx."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["CHAT", "COMPLETIONS", "HELLO", "RAW", "REQUESTS"]

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = [{"role": "user", "content": "ab"}]
BIG = 10**400


def chat(**fields: object) -> bytes:
    return json.dumps({"messages": HELLO, "max_tokens": 3} | fields).encode()


def schema(value: Any) -> bytes:
    return chat(response_format={"type": "json_schema", "json_schema": {"schema": value}})


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
    "max_tokens is huge": chat(max_tokens=2**63),
    "max_tokens is a list": chat(max_tokens=[3]),
    "temperature is huge": chat(temperature=1e300),
    "temperature is an object": chat(temperature={}),
    "top_p is 2": chat(top_p=2),
    "top_p is negative": chat(top_p=-0.5),
    "min_p is 2": chat(min_p=2),
    "repetition_penalty is 0": chat(repetition_penalty=0),
    "presence_penalty is huge": chat(presence_penalty=1e6),
    "frequency_penalty is a word": chat(frequency_penalty="much"),
    "seed is beyond 64 bits": chat(seed=2**64),
    "seed is a fraction": chat(seed=0.5),
    "mirostat is 7": chat(mirostat=7),
    "n is 1.5": chat(n=1.5),
    "logit_bias is a list": chat(logit_bias=[1]),
    "logit_bias of a negative id": chat(logit_bias={"-1": 1}),
    "logit_bias of an id beyond 64 bits": chat(logit_bias={"9" * 40: 1}),
    "bad_words have unknown ids": chat(bad_words=[[10**9]]),
    "min_tokens is negative": chat(min_tokens=-3),
    "user is a number": chat(user=1),
    "stream_options is a list": chat(stream_options=[]),
    "model is a number": chat(model=3),
    "model is unknown": chat(model="gpt-4"),
    "model is a path": chat(model="../../etc/passwd"),
    "model is long": chat(model="m" * 100_000),
    "content has an image": chat(
        messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]
    ),
    "a prompt beyond the context": chat(messages=[{"role": "user", "content": "ab " * 5000}]),
    "chat_template_kwargs is a list": chat(chat_template_kwargs=[1]),
    "schema is a list": schema([]),
    "schema has no type there is": schema({"type": "robot"}),
    "schema refers to nothing": schema({"$ref": "#/$defs/none"}),
    "schema refers to elsewhere": schema({"$ref": "http://127.0.0.1:1/x"}),
    "schema refers to itself": schema({"$ref": "#"}),
    "schema matches nothing": schema({"allOf": [{"type": "string"}, {"type": "integer"}]}),
    "a regex with a look-around": chat(regex="(?=a)b"),
    "a grammar without a start": chat(grammar='other: "a"'),
    "a grammar that never ends": chat(grammar="start: start"),
    "choice is empty": chat(choice=[]),
    "a tool whose parameters are a list": chat(
        tools=[{"type": "function", "function": {"name": "f", "parameters": []}}]
    ),
    "a tool with a long name": chat(tools=[{"type": "function", "function": {"name": "f" * 200}}]),
    "tool_choice is a number": chat(tools=[{"type": "function", "function": {"name": "f"}}], tool_choice=1),
}

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

COMPLETION_FIELDS: dict[str, dict[str, Any]] = {
    "suffix": {"suffix": "x"},
    "best_of": {"best_of": 5},
    "no tokens": {"max_tokens": 0},
    "logprobs are negative": {"logprobs": -1},
    "logprobs are many": {"logprobs": 1000},
    "logprobs are true": {"logprobs": True},
    "too many answers": {"n": 128, "prompt": ["a"] * 9},
    "echo is a number": {"echo": 1},
}
ECHO = {"echo": True, "logprobs": 1, "max_tokens": 0}
JSON_TYPE = {"Content-Type": "application/json"}

# What it is -> method, path, headers, body.
REQUESTS: dict[str, tuple[str, str, dict[str, str], bytes]] = {
    **{f"chat: {name}": ("POST", CHAT, JSON_TYPE, body) for name, body in BODIES.items()},
    **{
        f"prompt: {name}{kind}": ("POST", COMPLETIONS, JSON_TYPE, json.dumps({"prompt": prompt} | more).encode())
        for name, prompt in PROMPTS.items()
        for kind, more in (("", {}), (", echo", ECHO))
    },
    **{
        f"completion: {name}": ("POST", COMPLETIONS, JSON_TYPE, json.dumps({"prompt": "ab"} | fields).encode())
        for name, fields in COMPLETION_FIELDS.items()
    },
    "no such route": ("GET", "/no/such/page", {}, b""),
    "a method that is none": ("BREW", "/v1/models", {}, b""),
    "GET of a POST": ("GET", CHAT, {}, b""),
    "DELETE of a model": ("DELETE", "/v1/models/tiny", {}, b""),
    "a path upwards": ("GET", "/v1/models/..%2f..%2fetc%2fpasswd", {}, b""),
    "a long path": ("GET", "/v1/models/" + "x" * 5000, {}, b""),
    "a null byte in a path": ("GET", "/v1/models/%00", {}, b""),
    "bad UTF-8 in a path": ("GET", "/v1/models/%ff%fe", {}, b""),
    "tokenize nothing": ("POST", "/tokenize", JSON_TYPE, b"{}"),
    "tokenize both": ("POST", "/tokenize", JSON_TYPE, json.dumps({"prompt": "a", "messages": HELLO}).encode()),
    "detokenize what is none": ("POST", "/detokenize", JSON_TYPE, b'{"tokens": [1000000000]}'),
    "detokenize a text": ("POST", "/detokenize", JSON_TYPE, b'{"tokens": "ab"}'),
    "detokenize negative ids": ("POST", "/detokenize", JSON_TYPE, b'{"tokens": [-1]}'),
    "a template of nothing": ("POST", "/apply-template", JSON_TYPE, b'{"messages": []}'),
    "tokenizer of another model": ("GET", "/tokenizer_info?model=..%2fx", {}, b""),
    "load what is not there": ("POST", "/v1/models/load", JSON_TYPE, b'{"model": "/etc/passwd"}'),
    "load without a name": ("POST", "/v1/models/load", JSON_TYPE, b"{}"),
    "unload what is not there": ("POST", "/v1/models/unload", JSON_TYPE, b'{"model": "x", "force": true}'),
    "a foreign host": ("GET", "/v1/models", {"Host": "evil.example"}, b""),
    "a foreign page": ("POST", CHAT, JSON_TYPE | {"Origin": "https://evil.example"}, chat()),
    "a large body": ("POST", CHAT, JSON_TYPE, chat(user="x" * 2**20)),
    "a body that is compressed": ("POST", CHAT, JSON_TYPE | {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08\x00"),
}

# Bytes that no client of ours would send; the connection may also be closed without a word.
GET = b"GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
RAW: dict[str, bytes] = {
    "no HTTP at all": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20,
    "a header of 1 MB": b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 2**20 + b"\r\n\r\n",
    "100,000 headers": GET % b"/health" + b"".join(b"X-%d: y\r\n" % number for number in range(100_000)) + b"\r\n",
    "a body of 1 TB": b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\n",
    "a length that is none": b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    "two lengths": b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "a chunk that is none": b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "no host": b"GET /health HTTP/1.1\r\n\r\n",
    "a header with a null byte": GET % b"/health" + b"X-A: \x00\r\n\r\n",
    **{
        f"the path {path!r}": GET % path + b"\r\n"
        for path in (b"/\xff", b"/%ff%0a%00", b"//", b"/v1/models/%0d%0aX: y", b"http://evil.example/", b"*")
    },
}
