"""Many at once, the same text everywhere, figures and the routes about tokens."""

from __future__ import annotations

import asyncio
import json
import re

import httpx
import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from densecore.cli import main
from densecore.data import builtin_model_path
from densecore.server.logs import logging_to_stderr
from tests.conftest import shared_path

from .conftest import Running, running

MODEL = "pystd-6m"
CHAT = "/v1/chat/completions"


def figures(server: Running) -> dict[str, float]:
    text = server.http.get("/metrics").text
    return {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}


class TestTheSameText:
    def test_sdk_cli_and_server(self, builtin: Running, capsys: pytest.CaptureFixture[str]) -> None:
        options = {"temperature": 0, "max_tokens": 24}
        expected = builtin.model.generate("def __init__(self", **options)
        client = builtin.openai()
        assert client.completions.create(model=MODEL, prompt="def __init__(self", **options).choices[0].text == expected
        flags = ["--temperature", "0", "--min-p", "0", "-n", "24", "--no-echo", "--quiet"]
        assert main(["run", "def __init__(self", *flags]) == 0
        assert capsys.readouterr().out.removesuffix("\n") == expected.removesuffix("\n")

    def test_the_recorded_transcript(self) -> None:
        import numpy as np

        data = np.load(shared_path("golden", "stories260K.npz"))
        with running({"stories": shared_path("models", "stories260K.gguf")}) as server:
            options = {"max_tokens": 160, "temperature": 0, "extra_body": {"repetition_penalty": 1.0}}
            answer = server.openai().completions.create(model="stories", prompt=str(data["prompt"]), **options)
            whole = server.model.detokenize([*data["ids"].tolist()[1:], *data["greedy"].tolist()])
            assert str(data["prompt"]) + answer.choices[0].text == whole


class TestManyStreams:
    def test_32_streams_are_each_as_alone(self, builtin: Running) -> None:
        prompts = [f"def f{i}(x):\n    return x {'+-*/'[i % 4]} {i}\n\n" for i in range(32)]
        options = {"model": MODEL, "temperature": 0, "stream_options": {"include_usage": True}}

        async def ask(client: openai.AsyncOpenAI, index: int) -> tuple[str, str, int]:
            stream = await client.completions.create(
                prompt=prompts[index], max_tokens=20 + index, stream=True, extra_body={"ignore_eos": True}, **options
            )
            chunks = [chunk async for chunk in stream]
            text = "".join(chunk.choices[0].text for chunk in chunks[:-1])
            return text, chunks[-2].choices[0].finish_reason, chunks[-1].usage.completion_tokens

        async def ask_all() -> list[tuple[str, str, int]]:
            async with openai.AsyncOpenAI(base_url=f"{builtin.url}/v1", api_key="x", max_retries=0) as client:
                return await asyncio.gather(*(ask(client, index) for index in range(32)))

        found = asyncio.run(ask_all())
        for index, prompt in enumerate(prompts):
            alone = builtin.model.complete(prompt, max_tokens=20 + index, temperature=0, ignore_eos=True)
            assert found[index] == (alone.text, "length", 20 + index)
        builtin.wait_until_idle()

    def test_others_go_on_when_half_of_the_clients_go_away(self, builtin: Running) -> None:
        options = {"model": MODEL, "temperature": 0, "max_tokens": 60, "ignore_eos": True, "stream": True}

        async def ask(client: httpx.AsyncClient, index: int) -> str:
            text = ""
            async with client.stream("POST", "/v1/completions", json=options | {"prompt": f"x{index} = "}) as answer:
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        text += json.loads(line[6:])["choices"][0]["text"]
                        if index % 2:
                            return ""
            return text

        async def ask_all() -> list[str]:
            async with httpx.AsyncClient(base_url=builtin.url, timeout=60) as client:
                return await asyncio.gather(*(ask(client, index) for index in range(16)))

        found = asyncio.run(ask_all())
        rest = {name: value for name, value in options.items() if name not in ("model", "stream")}
        for index in range(0, 16, 2):
            assert found[index] == builtin.model.generate(f"x{index} = ", **rest)
        builtin.wait_until_idle()


class TestEvents:
    def test_form(self, builtin: Running) -> None:
        answer = builtin.post(CHAT, messages=[{"role": "user", "content": "import"}], max_tokens=4, stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        events = answer.text.split("\n\n")
        assert events[-1] == ""
        assert events[-2] == "data: [DONE]"
        assert all(json.loads(event.removeprefix("data: ")) for event in events[:-2])

    def test_pings_while_there_is_nothing_to_say(self) -> None:
        with running({MODEL: builtin_model_path()}, ping_seconds=0.001) as server:
            body = {"messages": [{"role": "user", "content": "x = 1\n" * 30}], "max_tokens": 30, "stream": True}
            assert ": ping\n\n" in server.post(CHAT, **body).text
            client = server.openai().chat.completions
            chunks = list(client.create(model=MODEL, temperature=0, **body))
            whole = client.create(model=MODEL, temperature=0, **(body | {"stream": False}))
            assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content


class TestFigures:
    def test_counts(self, builtin: Running) -> None:
        builtin.wait_until_idle()
        before = figures(builtin)
        body = {"messages": [{"role": "user", "content": "import"}], "max_tokens": 6, "ignore_eos": True}
        usage = [builtin.post(CHAT, **body).json()["usage"] for _ in range(2)]
        builtin.post(CHAT, **(body | {"temperature": -1}))
        builtin.post(CHAT, stream=True, **body)
        builtin.wait_until_idle()
        after = figures(builtin)

        def gained(name: str) -> float:
            return after[f"densecore_{name}"] - before[f"densecore_{name}"]

        assert gained("requests_total") == 4
        assert (gained("requests_completed_total"), gained("requests_failed_total")) == (3, 1)
        assert gained("generated_tokens_total") == 18
        assert gained("prompt_tokens_total") == 3 * usage[0]["prompt_tokens"]
        assert gained("time_to_first_token_seconds_count") == gained("queue_wait_seconds_count") == 3
        assert gained("inter_token_latency_seconds_count") > 3
        assert gained("prefix_cache_hit_tokens_total") >= usage[1]["prompt_tokens_details"]["cached_tokens"] > 0
        assert after["densecore_requests_active"] == after["densecore_requests_pending"] == 0
        assert after["densecore_tokens_per_second"] > 0
        assert after["densecore_kv_cache_blocks"] > 0
        assert after["densecore_kv_cache_usage_percent"] == after["densecore_batch_size"] == 0
        assert after["densecore_models_loaded"] == 1

    def test_names_are_documented(self, builtin: Running) -> None:
        from pathlib import Path

        text = (Path(__file__).parents[2] / "docs" / "SERVER.md").read_text()
        names = {re.sub(r"_(total|created|bucket|count|sum)$", "", name) for name in figures(builtin)}
        assert all(name.removeprefix("densecore_") in text for name in names), names


class TestLog:
    def test_a_line_of_json_for_each_request_without_prompts(self, builtin, capsys) -> None:
        with logging_to_stderr("info", "json"):
            messages = [{"role": "user", "content": "secret words"}]
            headers = {"X-Request-ID": "abc", "Authorization": "Bearer sk-secret"}
            builtin.http.post(CHAT, json={"messages": messages, "max_tokens": 3, "ignore_eos": True}, headers=headers)
            builtin.http.post(CHAT, json={"messages": messages, "top_k": -1})
            builtin.wait_until_idle()
        written = capsys.readouterr().err
        first, second = [line for line in map(json.loads, written.splitlines()) if line.get("path") == CHAT]
        assert first["request_id"] == "abc"
        assert (first["status"], first["completion_tokens"], first["finish_reason"]) == (200, 3, ["length"])
        assert first["seconds"] >= first["time_to_first_token_seconds"] > 0
        assert (second["status"], second["error"]) == (400, "invalid_request_error")
        assert "secret" not in written


class TestTokens:
    def test_tokenize_and_back(self, builtin: Running) -> None:
        text = "import os  # 🦙"
        answer = builtin.post("/tokenize", prompt=text, add_special_tokens=False, return_token_strs=True).json()
        assert answer["tokens"] == builtin.model.tokenize(text)
        assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
        assert answer["max_model_len"] == 256
        assert builtin.post("/tokenize", content=text, add_special=False).json()["count"] >= answer["count"]
        back = builtin.post("/detokenize", tokens=answer["tokens"]).json()
        assert back["prompt"] == back["content"] == text

    def test_conversation(self, builtin: Running) -> None:
        messages = [{"role": "user", "content": "import os"}]
        prompt = builtin.post("/apply-template", messages=messages).json()["prompt"]
        assert prompt == builtin.model.apply_chat_template(messages)
        tokens = builtin.post("/tokenize", messages=messages).json()["tokens"]
        assert tokens == builtin.model.prompt_tokens(prompt)
        answer = builtin.post(CHAT, messages=messages, max_tokens=1).json()
        assert answer["usage"]["prompt_tokens"] == len(tokens)

    def test_info(self, builtin: Running) -> None:
        info = builtin.http.get("/tokenizer_info").json()
        assert info["n_vocab"] == builtin.model.tokenizer.n_vocab
        assert info["model"] == MODEL
        assert builtin.http.get("/tokenizer_info", params={"model": "x"}).status_code == 404

    def test_pages(self, builtin: Running) -> None:
        assert builtin.http.get("/").json()["name"] == "densecore"
        schema = builtin.http.get("/openapi.json").json()
        body = schema["paths"][CHAT]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert "messages" in body["properties"]
        assert body["properties"]["messages"]["items"]["required"] == ["role"]
        assert "$ref" not in json.dumps(body)
        responses = schema["paths"][CHAT]["post"]["responses"]
        assert {"200", "400", "401", "429", "501", "503"} <= set(responses)
        assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
        assert "422" not in json.dumps(schema)

    def test_the_reference_loads_nothing(self, builtin: Running) -> None:
        page = builtin.http.get("/docs")
        assert page.headers["content-security-policy"].startswith("default-src 'none'; style-src 'sha256-")
        assert not re.search(r"<script|<link|src=|https?://|@import|url\(", page.text)
        for path, methods in builtin.http.get("/openapi.json").json()["paths"].items():
            for method in methods:
                assert f"<code>{method.upper()} {path}</code>" in page.text
        assert "<code>max_completion_tokens</code></td><td>integer</td>" in page.text
        assert builtin.http.get("/redoc").status_code == 404

    @pytest.mark.parametrize("path", ["/", "/health", "/health/live", "/health/ready", "/health/startup", "/v1/models"])
    def test_head(self, builtin: Running, path: str) -> None:
        get, head = builtin.http.get(path), builtin.http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == get.headers["content-length"]

    def test_405_says_what_is_allowed(self, builtin: Running) -> None:
        assert builtin.http.get(CHAT).headers["allow"] == "POST"
        assert builtin.http.put("/v1/models").headers["allow"] == "GET"
