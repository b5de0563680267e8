"""The official client, unmodified, on the built-in model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import openai
import pydantic
import pytest

from densecore import GenerationConfig

from .conftest import Running

MODEL = "pystd-6m"
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "import os"}]
GREEDY = {"temperature": 0, "max_tokens": 12}


class TestChat:
    def test_whole_answer(self, builtin: Running) -> None:
        answer = builtin.openai().chat.completions.create(model=MODEL, messages=MESSAGES, **GREEDY)
        expected = builtin.model.complete_chat(MESSAGES, **GREEDY)
        choice = answer.choices[0]
        assert choice.message.content == expected.text
        assert choice.message.role == "assistant"
        assert choice.finish_reason == expected.finish_reason == "length"
        assert (answer.object, answer.model) == ("chat.completion", MODEL)
        assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
        assert answer.usage.completion_tokens == 12
        assert answer.usage.total_tokens == expected.usage.total_tokens
        assert answer.usage.prompt_tokens_details.cached_tokens >= 0

    def test_stream(self, builtin: Running) -> None:
        chunks = list(
            builtin.openai().chat.completions.create(
                model=MODEL, messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **GREEDY
            )
        )
        assert len({(chunk.id, chunk.model) for chunk in chunks}) == 1
        first, *middle, last, usage = chunks
        assert first.choices[0].delta.role == "assistant"
        assert all(chunk.choices[0].delta.content and chunk.choices[0].delta.role is None for chunk in middle)
        assert last.choices[0].finish_reason == "length"
        assert last.choices[0].delta.model_dump(exclude_none=True) == {}
        assert usage.choices == []
        assert usage.usage.completion_tokens == 12
        assert all(chunk.usage is None for chunk in chunks[:-1])
        expected = builtin.model.complete_chat(MESSAGES, **GREEDY).text
        assert "".join(chunk.choices[0].delta.content for chunk in middle) == expected

    def test_several_answers_have_seeds_of_their_own(self, builtin: Running) -> None:
        options = {"temperature": 1.0, "seed": 7, "max_tokens": 8}
        answer = builtin.openai().chat.completions.create(model=MODEL, messages=MESSAGES, n=3, **options)
        ids = builtin.model.prompt_tokens(builtin.model.apply_chat_template(MESSAGES))
        config = builtin.model.chat_config(GenerationConfig(**options))
        expected = [result.text for result in builtin.model.complete_n(ids, 3, config)]
        assert [choice.message.content for choice in answer.choices] == expected
        assert answer.usage.completion_tokens == 24
        assert answer.usage.prompt_tokens == len(ids)

    def test_streams_of_several_answers(self, builtin: Running) -> None:
        texts, reasons = ["", "", ""], [None] * 3
        options = {"temperature": 1.0, "seed": 7, "max_tokens": 8, "n": 3}
        client = builtin.openai().chat.completions
        for chunk in client.create(model=MODEL, messages=MESSAGES, stream=True, **options):
            choice = chunk.choices[0]
            texts[choice.index] += choice.delta.content or ""
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
        whole = client.create(model=MODEL, messages=MESSAGES, **options)
        assert texts == [choice.message.content for choice in whole.choices]
        assert reasons == [choice.finish_reason for choice in whole.choices]

    def test_max_tokens_is_what_the_context_has_room_for(self, builtin: Running) -> None:
        answer = builtin.openai().chat.completions.create(
            model=MODEL, messages=MESSAGES, temperature=0, extra_body={"ignore_eos": True}
        )
        assert answer.usage.total_tokens == builtin.model.max_model_len
        assert answer.choices[0].finish_reason == "length"

    def test_max_completion_tokens_and_stop(self, builtin: Running) -> None:
        client = builtin.openai().chat.completions
        answer = client.create(model=MODEL, messages=MESSAGES, max_completion_tokens=3, temperature=0)
        assert answer.usage.completion_tokens == 3
        whole = client.create(model=MODEL, messages=MESSAGES, **GREEDY).choices[0].message.content
        stop = whole[4:7]
        answer = client.create(model=MODEL, messages=MESSAGES, stop=stop, **GREEDY).choices[0]
        assert answer.finish_reason == "stop"
        assert answer.message.content == whole[: whole.index(stop)]

    def test_logprobs(self, builtin: Running) -> None:
        client = builtin.openai().chat.completions
        options = {"model": MODEL, "messages": MESSAGES, "logprobs": True, "top_logprobs": 3, **GREEDY}
        expected = builtin.model.complete_chat(MESSAGES, logprobs=True, top_logprobs=3, **GREEDY).logprobs
        whole = client.create(**options).choices[0].logprobs.content
        assert [entry.logprob for entry in whole] == [entry.logprob for entry in expected]
        assert [len(entry.top_logprobs) for entry in whole] == [3] * 12
        assert b"".join(bytes(entry.bytes) for entry in whole) == b"".join(entry.bytes for entry in expected)
        chunks = [c.choices[0].logprobs for c in client.create(stream=True, **options)]
        assert [e for logprobs in chunks if logprobs for e in logprobs.content] == whole

    def test_parse_with_pydantic(self, builtin: Running) -> None:
        class Point(pydantic.BaseModel):
            x: bool
            y: bool

        client = builtin.openai().chat.completions
        answer = client.parse(model=MODEL, messages=MESSAGES, response_format=Point, max_tokens=60, temperature=0)
        assert isinstance(answer.choices[0].message.parsed, Point)
        with pytest.raises(openai.LengthFinishReasonError):
            client.parse(model=MODEL, messages=MESSAGES, response_format=Point, max_tokens=2, temperature=0)

    def test_json_object(self, builtin: Running) -> None:
        answer = builtin.openai().chat.completions.create(
            model=MODEL, messages=MESSAGES, response_format={"type": "json_object"}, seed=1, max_tokens=100
        )
        if answer.choices[0].finish_reason == "stop":
            assert isinstance(json.loads(answer.choices[0].message.content), dict)
        assert answer.choices[0].message.content.startswith("{")

    def test_text_parts(self, builtin: Running) -> None:
        client = builtin.openai().chat.completions
        parts = [{"type": "text", "text": "import os"}]
        answer = client.create(model=MODEL, messages=[MESSAGES[0], {"role": "user", "content": parts}], **GREEDY)
        plain = client.create(model=MODEL, messages=MESSAGES, **GREEDY)
        assert answer.choices[0].message.content == plain.choices[0].message.content
        image = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]
        with pytest.raises(openai.BadRequestError, match="read text only"):
            client.create(model=MODEL, messages=[{"role": "user", "content": image}])


class TestCompletions:
    def test_whole_and_stream(self, builtin: Running) -> None:
        client = builtin.openai().completions
        expected = builtin.model.complete("import os", **GREEDY)
        answer = client.create(model=MODEL, prompt="import os", **GREEDY)
        assert answer.choices[0].text == expected.text
        assert answer.usage.prompt_tokens == expected.usage.prompt_tokens
        chunks = list(client.create(model=MODEL, prompt="import os", stream=True, **GREEDY))
        assert "".join(chunk.choices[0].text for chunk in chunks) == expected.text
        assert chunks[-1].choices[0].finish_reason == "length"

    def test_default_is_16_tokens(self, builtin: Running) -> None:
        options = {"temperature": 0, "extra_body": {"ignore_eos": True}}
        answer = builtin.openai().completions.create(model=MODEL, prompt="import os", **options)
        assert answer.usage.completion_tokens == 16

    def test_several_prompts_as_text_and_as_ids(self, builtin: Running) -> None:
        client = builtin.openai().completions
        prompts = ["import os", "def f(x):", "class A"]
        ids = [builtin.model.prompt_tokens(prompt) for prompt in prompts]
        expected = builtin.model.generate_batch(prompts, **GREEDY)
        for given in (prompts, ids):
            answer = client.create(model=MODEL, prompt=given, **GREEDY)
            assert [choice.text for choice in answer.choices] == expected
            assert [choice.index for choice in answer.choices] == [0, 1, 2]
            assert answer.usage.prompt_tokens == sum(map(len, ids))
        assert client.create(model=MODEL, prompt=ids[0], **GREEDY).choices[0].text == expected[0]

    def test_n_answers_to_two_prompts(self, builtin: Running) -> None:
        answer = builtin.openai().completions.create(
            model=MODEL, prompt=["import os", "import re"], n=2, seed=3, max_tokens=6
        )
        expected = [
            result.text
            for prompt in ("import os", "import re")
            for result in builtin.model.complete_n(prompt, 2, seed=3, max_tokens=6)
        ]
        assert [choice.text for choice in answer.choices] == expected


class TestErrors:
    def test_each_status_is_the_exception_it_should_be(self, builtin: Running) -> None:
        client = builtin.openai()
        with pytest.raises(openai.NotFoundError, match=r"'gpt-4' does not exist here; there are: pystd-6m") as caught:
            client.chat.completions.create(model="gpt-4", messages=MESSAGES)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model=MODEL, messages=MESSAGES, temperature=-1)
        assert caught.value.param == "temperature"
        with pytest.raises(openai.BadRequestError, match="maximum context length is 256 tokens") as caught:
            client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x = 1\n" * 200}])
        assert caught.value.code == "context_length_exceeded"
        with pytest.raises(openai.BadRequestError, match="maximum context length"):
            client.completions.create(model=MODEL, prompt=[5] * 256, stream=True)
        with pytest.raises(openai.APIStatusError) as caught:
            client.responses.create(model=MODEL, input="a")
        assert caught.value.status_code == 501

    def test_models(self, builtin: Running) -> None:
        client = builtin.openai()
        (model,) = client.models.list().data
        assert (model.id, model.object, model.owned_by) == (MODEL, "model", "densecore")
        assert client.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("other/name")


def test_the_example_of_the_page(builtin: Running, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "SERVER.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    code = block.replace("http://127.0.0.1:8080", builtin.url).replace('"qwen"', repr(MODEL))
    exec(compile(code, "example", "exec"), {})
    assert capsys.readouterr().out
