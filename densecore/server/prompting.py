"""What a chat asks of the engine: tokens, settings, and how its output is to be read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from densecore.config import GenerationConfig
from densecore.llm import DenseCore
from densecore.server.conversation import conversation, with_instructions
from densecore.server.errors import bad_request, context_exceeded
from densecore.server.generation import chat_config
from densecore.server.output import OutputParser
from densecore.server.reasoning import CLOSE, OPEN, ReasoningSplitter, thinks
from densecore.server.schemas import ChatRequest, Tool
from densecore.server.tool_formats import ToolFormat, call_grammar, format_of
from densecore.server.tool_parser import ToolParser

__all__ = ["Prepared", "checked_length", "prepare_chat", "render"]

RESERVED = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token", "documents")


@dataclass(frozen=True)
class Prepared:
    """A request that is ready to be submitted.

    Attributes
    ----------
    prompt_ids, config : what the engine gets.
    reasoning : whether the output may begin with reasoning; `reasons_already`, whether the prompt has opened it.
    tools : format of calls, or None if none are looked for; `calls_already`, whether the prompt has opened one.
    """

    prompt_ids: list[int]
    config: GenerationConfig
    reasoning: bool = False
    reasons_already: bool = False
    tools: ToolFormat | None = None
    calls_already: bool = False
    names: tuple[str, ...] = ()

    def parser(self) -> OutputParser:
        """A reader for one answer."""
        splitter = ReasoningSplitter(inside=self.reasons_already) if self.reasoning else None
        parser = ToolParser(self.tools, self.names, inside=self.calls_already) if self.tools else None
        return OutputParser(splitter, parser)


@dataclass(frozen=True)
class _Choice:
    """Which tools a request may, or must, call."""

    tools: Sequence[Tool]
    must: bool = False


def prepare_chat(model: DenseCore, request: ChatRequest, timeout: float) -> Prepared:
    """Tokens and settings of a chat. Takes time: not for the event loop.

    400 for a request that cannot be done, and for a conversation that leaves no room in the context.
    """
    choice = _chosen(request)
    config = model.chat_config(chat_config(request, timeout, model.max_model_len))
    template, format = model.chat_template, format_of(model.chat_template)
    prompt = render(model, request.messages, choice.tools, True, request.chat_template_kwargs)
    inside = thinks(template) and prompt.rstrip().endswith(OPEN)
    if choice.must:
        several = request.parallel_tool_calls is not False and request.tool_choice == "required"
        config = _must_call(config, _call_grammar(model, format, choice.tools, several))
    free = not (choice.must or config.json_mode or config.json_schema)
    if inside and not free:  # what must be JSON has no place for thinking aloud
        prompt, inside = f"{prompt}\n{CLOSE}\n\n", False
    if choice.must:
        prompt += format.opening
    looks_for_calls = bool(choice.tools) and (choice.must or free)
    if looks_for_calls and format.shows_control_tokens:
        config = dataclasses.replace(config, skip_special_tokens=False)
    return Prepared(
        checked_length(model, model.prompt_tokens(prompt)),
        config,
        reasoning=thinks(template) and free,
        reasons_already=inside,
        tools=format if looks_for_calls else None,
        calls_already=choice.must,
        names=tuple(tool.function.name for tool in choice.tools),
    )


def render(
    model: DenseCore,
    messages: Sequence[dict[str, Any]],
    tools: Sequence[Tool],
    add_generation_prompt: bool,
    variables: dict[str, Any] | None = None,
) -> str:
    """The prompt that a conversation becomes. Takes time: not for the event loop."""
    for name in variables or {}:
        if name in RESERVED:
            raise bad_request(f"chat_template_kwargs may not set {name}", "chat_template_kwargs")
    checked = conversation(messages)
    described = [tool.model_dump(exclude_unset=True) | {"type": "function"} for tool in tools]
    if "tools" not in model.chat_template:
        checked, described = with_instructions(checked, tools), []
    return model.apply_chat_template(
        checked,
        tools=described or None,
        add_generation_prompt=add_generation_prompt,
        **(variables or {}),
    )


def checked_length(model: DenseCore, prompt_ids: list[int], param: str = "messages") -> list[int]:
    """`prompt_ids`, which must leave room for a token; 400 in the words that clients know."""
    if len(prompt_ids) >= model.max_model_len:
        raise context_exceeded(len(prompt_ids), model.max_model_len, param)
    return prompt_ids


def _chosen(request: ChatRequest) -> _Choice:
    """What `tools` and `tool_choice` come to."""
    tools, wanted = request.tools or [], request.tool_choice
    if wanted == "none" or (not tools and wanted in (None, "auto")):
        return _Choice([])
    if not tools:
        raise bad_request("tool_choice needs tools", "tool_choice")
    if wanted in (None, "auto"):
        return _Choice(tools)
    if wanted == "required":
        return _Choice(tools, must=True)
    name = _wanted_name(wanted)
    named = [tool for tool in tools if tool.function.name == name]
    if not named:
        raise bad_request(f"tool_choice names the function {name!r:.200}, which is not in tools", "tool_choice")
    return _Choice(named, must=True)


def _wanted_name(wanted: str | dict[str, Any]) -> str:
    function = wanted.get("function") if isinstance(wanted, dict) else None
    if isinstance(function, dict) and isinstance(function.get("name"), str):
        return function["name"]
    raise bad_request(
        'tool_choice must be none, auto, required, or {"type": "function", "function": {"name": ...}}', "tool_choice"
    )


def _call_grammar(model: DenseCore, format: ToolFormat, tools: Sequence[Tool], several: bool) -> str:
    tokenizer = model.tokenizer

    def spell(mark: str) -> str:
        ids = tokenizer.encode(mark, parse_special=True)
        return f"<[{ids[0]}]>" if len(ids) == 1 and tokenizer.is_special(ids[0]) else json.dumps(mark)

    return call_grammar(format, tools, several=several, spell=spell)


def _must_call(config: GenerationConfig, grammar: str) -> GenerationConfig:
    free = {"json_mode": False, "json_schema": None, "regex": None, "choice": None}
    return dataclasses.replace(config, **free, grammar=grammar)  # type: ignore[arg-type]
