"""How models write tool calls, and how a model is held to write one.

The format is told by the model's chat template, which names the marks that the model was trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from densecore.server.schemas import Tool

__all__ = ["FORMATS", "ToolFormat", "call_grammar", "format_of", "instructions"]

JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True)
class ToolFormat:
    """One way to write calls.

    marker : begins calls; empty where an output that begins with a call is one.
    end : ends a call, or all calls.
    opening : what a prompt ends with, if the answer must be a call.
    arguments : what the field of the arguments is called.
    first, between, last : around and between the calls of an answer that must be calls; no `between`, a single call.
    shows_control_tokens : whether the marker is a control token, which a text does not show otherwise.
    separator : stands between a function's name and its arguments, if a call is no JSON object with both.
    """

    name: str
    arguments: str = "arguments"
    marker: str = ""
    end: str = ""
    opening: str = ""
    first: str = ""
    between: str = ""
    last: str = ""
    shows_control_tokens: bool = False
    separator: str = ""


FORMATS = {
    "hermes": ToolFormat(
        "hermes",
        marker="<tool_call>",
        end="</tool_call>",
        opening="<tool_call>\n",
        between="\n</tool_call>\n<tool_call>\n",
        last="\n</tool_call>",
    ),
    "mistral": ToolFormat(
        "mistral",
        marker="[TOOL_CALLS]",
        end="]",
        opening="[TOOL_CALLS]",
        first="[",
        between=", ",
        last="]",
        shows_control_tokens=True,
    ),
    "mistral-args": ToolFormat(
        "mistral-args",
        marker="[TOOL_CALLS]",
        end="]",
        opening="[TOOL_CALLS]",
        between="[TOOL_CALLS]",
        shows_control_tokens=True,
        separator="[ARGS]",
    ),
    "llama3": ToolFormat("llama3", arguments="parameters"),
    "json": ToolFormat("json"),
}


def format_of(template: str) -> ToolFormat:
    """The format of a model with this chat template."""
    if "<tool_call>" in template:
        return FORMATS["hermes"]
    if "[TOOL_CALLS]" in template:
        return FORMATS["mistral-args" if "[ARGS]" in template else "mistral"]
    if "<|python_tag|>" in template or '"parameters": dictionary' in template:
        return FORMATS["llama3"]
    return FORMATS["json"]


def instructions(tools: Sequence[Tool]) -> str:
    """What a model is told whose template knows nothing of tools."""
    described = "\n".join(json.dumps(tool.function.model_dump(exclude_none=True)) for tool in tools)
    return (
        "You may call one of these functions, described as JSON:\n"
        f"{described}\n"
        'To call one, answer with nothing but a JSON object {"name": name of the function, "arguments": object of its '
        "arguments}. Otherwise answer in plain text."
    )


def call_grammar(
    format: ToolFormat, tools: Sequence[Tool], *, several: bool, spell: Callable[[str], str] = json.dumps
) -> str:
    """A grammar in Lark syntax for what follows `opening`: a call of one of `tools`, or several.

    spell : the grammar's word for a mark, which the vocabulary may have as a control token
    """
    calls = "call"
    if several and format.between:
        calls = f"call ({spell(format.between)} call)*"
    first, last = (f" {spell(text)} " if text else " " for text in (format.first, format.last))
    rules = _named_calls(format, tools, spell) if format.separator else _json_calls(format, tools)
    return f"start:{first}{calls}{last}\n{rules}"


def _json_calls(format: ToolFormat, tools: Sequence[Tool]) -> str:
    """The rule ``call`` where a call is a JSON object with name and arguments."""
    return f"call: %json {_escaped(_call_schema(format, tools))}\n"


def _named_calls(format: ToolFormat, tools: Sequence[Tool], spell: Callable[[str], str]) -> str:
    """The rule ``call`` where a name, `separator` and arguments follow each other."""
    rules = [f"call: {' | '.join(f'call_{index}' for index in range(len(tools)))}\n"]
    for index, tool in enumerate(tools):
        schema = _parameters(tool) | {"x-guidance": JSON_STYLE}
        rules.append(
            f"call_{index}: {json.dumps(tool.function.name)} {spell(format.separator)} %json {_escaped(schema)}\n"
        )
    return "".join(rules)


def _parameters(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object", "additionalProperties": False}


def _call_schema(format: ToolFormat, tools: Sequence[Tool]) -> dict[str, Any]:
    shapes = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.function.name},
                format.arguments: _parameters(tool),
            },
            "required": ["name", format.arguments],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    schema: dict[str, Any] = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return _with_definitions_on_top(schema, tools) | {"x-guidance": JSON_STYLE}


def _with_definitions_on_top(schema: dict[str, Any], tools: Sequence[Tool]) -> dict[str, Any]:
    """References such as ``#/$defs/Color`` begin at the top, and parameters are further down: move what they mean."""
    moved: dict[str, Any] = {}
    for word in ("$defs", "definitions"):
        found = [(tool.function.parameters or {}).get(word) for tool in tools]
        merged = {name: value for group in found if isinstance(group, dict) for name, value in group.items()}
        if merged:
            moved[word] = merged
    return schema | moved


def _escaped(schema: dict[str, Any]) -> str:
    """As JSON without what looks like syntax of grammars."""
    return json.dumps(schema).replace("&", "\\u0026").replace("::=", "\\u003a:=")
