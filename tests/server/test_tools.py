"""Tool calls: read from what models of each family write, forced by a grammar, and streamed; reasoning beside them.

The model is a random one, which `choice` makes write a given text; templates are published ones.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import numpy as np
import openai
import pytest

from densecore.server.output import Delta, Message, OutputParser
from densecore.server.reasoning import ReasoningSplitter
from densecore.server.tool_formats import FORMATS, format_of
from densecore.server.tool_parser import ToolParser
from tests.conftest import shared_path
from tests.gguf_factory import llama_vocabulary, make_model

from .conftest import Running, running

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather & more, ::= now",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Rome"]},
                "unit": {"$ref": "#/$defs/Unit"},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
            "$defs": {"Unit": {"enum": ["C", "F"]}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "get_time", "description": "The time"}}
TOOLS = [WEATHER, TIME]
ASK = [{"role": "user", "content": "What is the weather in Paris?"}]
ARGUMENTS = '{"city": "Paris", "unit": "C"}'

TEMPLATES = {
    "hermes": "Qwen-Qwen2.5-7B-Instruct",
    "mistral": "mistralai-Mistral-Nemo-Instruct-2407",
    "mistral-args": None,
    "llama3": "meta-llama-Llama-3.1-8B-Instruct",
    "json": "microsoft-Phi-3.5-mini-instruct",
}
NAMED_TEMPLATE = """\
{{- bos_token }}{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' or message.role == 'system' %}[INST]{{ message.content }}[/INST]
{%- elif message.role == 'tool' %}[TOOL_RESULTS]{{ message.content }}[/TOOL_RESULTS]
{%- elif message.tool_calls %}{% for call in message.tool_calls %}[TOOL_CALLS]{{ call.function.name }}[ARGS]
{{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}{% endfor %}
{%- else %}{{ message.content }}{{ eos_token }}{% endif %}
{%- endfor %}"""  # as Mistral's templates are since the end of 2024
CALLS = {  # a call as each family writes it
    "hermes": f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "mistral": f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {ARGUMENTS}}}]',
    "mistral-args": f"[TOOL_CALLS]get_weather[ARGS]{ARGUMENTS}",
    "llama3": f'{{"name": "get_weather", "parameters": {ARGUMENTS}}}',
    "json": f'```json\n{{"name": "get_weather", "arguments": {ARGUMENTS}}}\n```',
}
TWO_CALLS = {
    "hermes": "Let me see.\n" + CALLS["hermes"] + '\n<tool_call>\n{"arguments": {}, "name": "get_time"}\n</tool_call>',
    "mistral": CALLS["mistral"][:-1] + ', {"name": "get_time", "arguments": {}}]',
    "mistral-args": CALLS["mistral-args"] + "[TOOL_CALLS]get_time[CALL_ID]abcdefghi[ARGS]{}",
}


def parse(format: str, text: str, size: int = 10**6, **options: bool) -> tuple[Message, list[Delta]]:
    """The message that a text is, fed in pieces of `size` characters."""
    names = [tool["function"]["name"] for tool in TOOLS]
    parser = OutputParser(ReasoningSplitter(), ToolParser(FORMATS[format], names, **options))
    deltas = [delta for i in range(0, len(text), size) for delta in parser.feed(text[i : i + size])]
    deltas += parser.finish()
    message = Message()
    for delta in deltas:
        message.add(delta)
    return message, deltas


def called(message: Message) -> list[tuple[str, object]]:
    return [(call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message.calls]


@pytest.mark.parametrize("size", [1, 2, 7, 10**6])
class TestParser:
    @pytest.mark.parametrize("format", CALLS)
    def test_one_call(self, format: str, size: int) -> None:
        message, deltas = parse(format, CALLS[format], size)
        assert called(message) == [("get_weather", json.loads(ARGUMENTS))]
        assert message.calls[0]["function"]["arguments"] == ARGUMENTS  # as it was written
        assert message.content == ""
        assert [delta.call.name for delta in deltas if delta.call and delta.call.name] == ["get_weather"]
        if size == 1:
            assert len(deltas) > 20  # arguments come as they are written

    @pytest.mark.parametrize("format", TWO_CALLS)
    def test_two_calls(self, format: str, size: int) -> None:
        message, deltas = parse(format, TWO_CALLS[format], size)
        assert called(message) == [("get_weather", json.loads(ARGUMENTS)), ("get_time", {})]
        assert message.content == ("Let me see." if format == "hermes" else "")
        assert [delta.call.index for delta in deltas if delta.call and delta.call.name] == [0, 1]
        assert len({call["id"] for call in message.calls}) == 2

    @pytest.mark.parametrize("format", FORMATS)
    @pytest.mark.parametrize(
        "text",
        ["Hello <there>\n", " {", "[1, 2]", '{"name": 3}', "<tool", '{"a": {"name": "get_time"}}', "", "``", "``` x"],
    )
    def test_what_is_no_call_is_content(self, format: str, text: str, size: int) -> None:
        message, _ = parse(format, text, size)
        assert (message.content, message.calls) == (text, [])

    @pytest.mark.parametrize("format", ["llama3", "json"])
    def test_without_a_marker_only_known_functions_are_calls(self, format: str, size: int) -> None:
        text = '{"name": "delete_all", "parameters": {}} '
        assert parse(format, text, size)[0].content == text

    def test_quoted_arguments_and_odd_characters(self, size: int) -> None:
        odd = json.dumps({"a": '}"{\\', "b": [{"c": "]"}]})
        for written in (odd, json.dumps(odd)):
            message, _ = parse("hermes", f'<tool_call>{{"name": "f", "arguments": {written}}}</tool_call>', size)
            assert called(message) == [("f", json.loads(odd))]

    @pytest.mark.parametrize("format", ["llama3", "json"])
    def test_calls_as_python(self, format: str, size: int) -> None:
        first = r"""get_weather(city="Paris", unit='C', days=[1, -2.5, (True, null)], note="a)]\"('\n", m={"é": {}})"""
        message, deltas = parse(format, f"[{first},\n get_time( )]\n", size)
        expected = {"city": "Paris", "unit": "C", "days": [1, -2.5, [True, None]], "note": "a)]\"('\n"}
        expected["m"] = {"é": {}}
        assert called(message) == [("get_weather", expected), ("get_time", {})]
        assert message.content == ""
        assert [delta.call.index for delta in deltas if delta.call and delta.call.name] == [0, 1]

    @pytest.mark.parametrize("format", ["llama3", "json"])
    @pytest.mark.parametrize(
        "text",
        [
            "[get_weather]",
            "[get_weather(",
            "[delete_all(a=1)]",
            "[get_time(1)]",
            "[get_time(a=b)]",
            "[get_time(a=__import__('os').getcwd())]",
            "[get_time(a=f'{1}')]",
            "[get_time(a=1e999)]",
            "[get_time(a=1j)]",
            "[get_time(a=b'x')]",
            "[get_time(a={1: 2})]",
            "[get_time(**{'a': 1})]",
            "[get_time(a=1, a=2)]",
            "[get_time(a='\\ud800')]",
            "[get_time)]",
            "[get_time(a=" + "[" * 300 + "]" * 300 + ")]",
            "[1, get_time()]",
        ],
        ids=lambda text: text[:24],
    )
    def test_python_that_is_no_call_is_content(self, format: str, text: str, size: int) -> None:
        message, _ = parse(format, text, size)
        assert (message.content, message.calls) == (text, [])

    def test_what_follows_a_call_as_python_that_is_none(self, size: int) -> None:
        message, _ = parse("llama3", "[get_time(), get_time(a=b)]", size)
        assert (called(message), message.content) == ([("get_time", {})], ", get_time(a=b)]")

    @pytest.mark.parametrize("text", ["[TOOL_CALLS]get weather", "[TOOL_CALLS]f[ARG]", "[TOOL_CALLS]" + "f" * 300])
    def test_a_name_without_arguments_is_content(self, text: str, size: int) -> None:
        message, _ = parse("mistral-args", text, size)
        assert (message.content, message.calls) == (text.removeprefix("[TOOL_CALLS]"), [])

    def test_arguments_that_are_no_json_are_passed_on(self, size: int) -> None:
        for format, text in [
            ("hermes", '<tool_call>{"name": "get_time", "arguments": {\'a\': 1,}}</tool_call>'),
            ("mistral-args", "[TOOL_CALLS]get_time[ARGS]{'a': 1,}"),
        ]:
            message, _ = parse(format, text, size)
            assert message.calls[0]["function"] == {"name": "get_time", "arguments": "{'a': 1,}"}

    def test_what_utf8_cannot_express_reaches_nobody(self, size: int) -> None:
        quoted = json.dumps('{"a": "\ud800"}')
        for text in (f'{{"name": "get_time", "arguments": {quoted}}}', '{"name": "\\ud800", "arguments": {}}'):
            message, _ = parse("hermes", f"<tool_call>{text}</tool_call>", size)
            json.dumps(message.to_json(), ensure_ascii=False).encode()

    def test_a_call_that_was_cut(self, size: int) -> None:
        message, _ = parse("hermes", CALLS["hermes"][:-30], size)
        assert message.calls[0]["function"]["arguments"] == ARGUMENTS[: len(message.calls[0]["function"]["arguments"])]

    def test_reasoning_goes_first(self, size: int) -> None:
        message, _ = parse("hermes", "<think>\nParis? <tool_call> \n</think>\n\n" + CALLS["hermes"], size)
        assert message.reasoning == "Paris? <tool_call>"
        assert called(message) == [("get_weather", json.loads(ARGUMENTS))]

    def test_reasoning_that_was_opened_or_never_ends(self, size: int) -> None:
        for text, inside, expected in [
            ("so</think>\nyes ", True, ("so", "yes ")),
            ("<think>so and", False, ("so and", "")),
            ("no <think>a</think>", False, ("", "no <think>a</think>")),
            ("<thin", False, ("", "<thin")),
            ("", True, ("", "")),
        ]:
            parser = OutputParser(ReasoningSplitter(inside=inside), None)
            message = Message()
            for delta in [d for i in range(0, len(text), size) for d in parser.feed(text[i : i + size])]:
                message.add(delta)
            for delta in parser.finish():
                message.add(delta)
            assert (message.reasoning, message.content) == expected


@pytest.fixture(scope="module", params=TEMPLATES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Running]]:
    """A random model with the chat template of a family."""
    name = TEMPLATES[request.param]
    template = NAMED_TEMPLATE if name is None else shared_path("templates", name + ".jinja").read_text()
    folder = tmp_path_factory.mktemp(request.param)
    overrides = {"tokenizer.chat_template": template}
    vocab = llama_vocabulary() if name else with_control_tokens(llama_vocabulary(), "[TOOL_CALLS]", "[ARGS]")
    path = make_model(folder / "m.gguf", n_layers=1, max_len=8192, vocab=vocab, metadata_overrides=overrides)
    with running({"m": path}) as server:
        yield request.param, server


def with_control_tokens(vocabulary: dict[str, Any], *texts: str) -> dict[str, Any]:
    """A vocabulary with tokens that no text is."""
    added = {"tokens": list(texts), "scores": [0.0] * len(texts), "token_type": [3] * len(texts)}
    keys = {f"tokenizer.ggml.{name}": values for name, values in added.items()}
    return vocabulary | {key: np.append(vocabulary[key], values).tolist() for key, values in keys.items()}


def create(server: Running, **options: object):
    return server.openai().chat.completions.create(**({"model": "m", "messages": ASK, "tools": TOOLS} | options))


class TestServer:
    def test_the_template_tells_the_format(self, family: tuple[str, Running]) -> None:
        format, server = family
        assert format_of(server.model.chat_template).name == format

    def test_tools_reach_the_prompt(self, family: tuple[str, Running]) -> None:
        _, server = family
        body = {"messages": ASK, "tools": TOOLS}
        prompt = server.post("/apply-template", **body).json()["prompt"]
        assert "get_weather" in prompt
        assert '"Rome"' in prompt
        assert "get_weather" not in server.post("/apply-template", messages=ASK).json()["prompt"]

    def test_calls_and_results_go_back_in(self, family: tuple[str, Running]) -> None:
        _, server = family
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "get_weather", "arguments": ARGUMENTS}}
        history = [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "21 degrees"},
        ]
        prompt = server.post("/apply-template", messages=history, tools=TOOLS).json()["prompt"]
        assert "21 degrees" in prompt
        assert '"city": "Paris"' in prompt
        assert '\\"city' not in prompt  # JSON, not JSON in a string

    def test_arguments_that_are_no_json_go_back_in(self, family: tuple[str, Running]) -> None:
        _, server = family
        call = {"id": "abcdefghi", "type": "function", "function": {"name": "get_time", "arguments": "{'a': 1,}"}}
        history = [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "abcdefghi", "content": "the arguments are no JSON"},
        ]
        answer = server.post("/apply-template", messages=history, tools=TOOLS)
        assert answer.status_code == 200, answer.text
        assert "{'a': 1,}" in answer.json()["prompt"].replace("\\u0027", "'")

    def test_a_call_is_found(self, family: tuple[str, Running]) -> None:
        format, server = family
        extra = {"choice": [CALLS[format]]}
        choice = create(server, max_tokens=400, extra_body=extra).choices[0]
        (call,) = choice.message.tool_calls
        assert (call.function.name, call.function.arguments) == ("get_weather", ARGUMENTS)
        assert choice.message.content is None
        assert choice.finish_reason == "tool_calls"
        name, arguments, content = "", "", ""
        for chunk in create(server, max_tokens=400, stream=True, extra_body=extra):
            delta = chunk.choices[0].delta
            content += delta.content or ""
            for piece in delta.tool_calls or []:
                name += piece.function.name or ""
                arguments += piece.function.arguments or ""
        assert (name, arguments, content) == ("get_weather", ARGUMENTS, "")
        assert chunk.choices[0].finish_reason == "tool_calls"

    def test_none_means_none(self, family: tuple[str, Running]) -> None:
        format, server = family
        choice = create(server, tool_choice="none", max_tokens=400, extra_body={"choice": [CALLS[format]]}).choices[0]
        assert choice.message.tool_calls is None
        assert choice.message.content == CALLS[format]

    @pytest.mark.parametrize("seed", range(3))
    def test_a_named_function_must_be_called(self, family: tuple[str, Running], seed: int) -> None:
        _, server = family
        wanted = {"type": "function", "function": {"name": "get_weather"}}
        choice = create(server, tool_choice=wanted, max_tokens=400, seed=seed, temperature=1.0).choices[0]
        (call,) = choice.message.tool_calls
        assert call.function.name == "get_weather"
        jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
        assert choice.finish_reason == "tool_calls"
        assert not choice.message.content

    @pytest.mark.parametrize("seed", range(3))
    def test_some_function_must_be_called(self, family: tuple[str, Running], seed: int) -> None:
        _, server = family
        options = {"tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 400, "seed": seed}
        streamed = {}
        for chunk in create(server, stream=True, **options):
            for piece in chunk.choices[0].delta.tool_calls or []:
                streamed.setdefault(piece.index, ["", ""])
                streamed[piece.index][0] += piece.function.name or ""
                streamed[piece.index][1] += piece.function.arguments or ""
        (call,) = create(server, **options).choices[0].message.tool_calls
        assert streamed == {0: [call.function.name, call.function.arguments]}
        assert call.function.name in ("get_weather", "get_time")
        assert isinstance(json.loads(call.function.arguments), dict)

    def test_mistakes(self, family: tuple[str, Running]) -> None:
        _, server = family
        broken = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "not": {}}}}
        with pytest.raises(openai.BadRequestError, match="cannot be used"):
            create(server, tools=[broken], tool_choice="required")


@pytest.mark.parametrize("name", ["Qwen-Qwen3-0.6B", "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B"])
def test_reasoning_of_published_templates(name: str, tmp_path) -> None:
    template = shared_path("templates", name + ".jinja").read_text()
    overrides = {"tokenizer.chat_template": template}
    path = make_model(tmp_path / "m.gguf", n_layers=1, max_len=4096, metadata_overrides=overrides)
    opened = "DeepSeek" in name
    text = ("" if opened else "<think>\n") + "Paris is large.\n</think>\n\nSunny."
    with running({"m": path}) as server:
        extra = {"chat_template_kwargs": {"enable_thinking": True}}
        ask = {"messages": ASK, "max_tokens": 200, "choice": [text]} | extra
        assert server.post("/apply-template", messages=ASK, **extra).json()["prompt"].endswith("<think>\n") == opened
        message = server.post("/v1/chat/completions", **ask).json()["choices"][0]["message"]
        assert (message["reasoning_content"], message["content"]) == ("Paris is large.", "Sunny.")
        reasoning = content = ""
        options = {"model": "m", "messages": ASK, "max_tokens": 200, "extra_body": extra | {"choice": [text]}}
        for chunk in server.openai().chat.completions.create(stream=True, **options):
            content += chunk.choices[0].delta.content or ""
            reasoning += getattr(chunk.choices[0].delta, "reasoning_content", None) or ""
        assert (reasoning, content) == ("Paris is large.", "Sunny.")
        schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"const": "yes"}}}
        ask = {"messages": ASK, "max_tokens": 20, "response_format": schema} | extra
        answer = server.post("/v1/chat/completions", **ask).json()
        assert answer["choices"][0]["message"]["content"] == '"yes"'
