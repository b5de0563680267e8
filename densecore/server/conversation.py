"""Messages in the form that chat templates expect: text as str, arguments of calls as objects."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from densecore.server.errors import bad_request
from densecore.server.schemas import ROLES, Tool
from densecore.server.tool_formats import instructions

__all__ = ["conversation", "with_instructions"]

TEXT_PARTS = ("text", "input_text", "output_text")


def conversation(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checked messages. 400 for roles that there are not, and for content other than text."""
    return [_message(f"messages[{index}]", message) for index, message in enumerate(messages)]


def _message(where: str, message: dict[str, Any]) -> dict[str, Any]:
    role = message.get("role")
    if role not in ROLES:
        raise bad_request(f"{where}.role must be one of {', '.join(ROLES)}, not {role!r:.80}", "messages")
    kept = {name: value for name, value in message.items() if value is not None}
    kept["role"] = {"developer": "system", "function": "tool"}.get(role, role)
    kept["content"] = _text(f"{where}.content", message.get("content"))
    if "tool_calls" in kept:
        kept["tool_calls"] = _calls(f"{where}.tool_calls", kept["tool_calls"])
        if not kept["tool_calls"]:
            del kept["tool_calls"]
    return kept


def _text(where: str, content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request(f"{where} must be a string or a list of text parts", "messages")
    return "\n".join(_part(f"{where}[{index}]", part) for index, part in enumerate(content))


def _part(where: str, part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in TEXT_PARTS and isinstance(part.get("text"), str):
        return part["text"]
    if kind in ("refusal",) and isinstance(part.get("refusal"), str):
        return part["refusal"]
    raise bad_request(f"{where} is of type {kind!r:.80}; models here read text only", "messages")


def _calls(where: str, calls: Any) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise bad_request(f"{where} must be a list", "messages")
    return [_call(f"{where}[{index}]", call) for index, call in enumerate(calls)]


def _call(where: str, call: Any) -> dict[str, Any]:
    """Arguments come as JSON in a string, and templates write JSON themselves; what is no JSON stays a string."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise bad_request(f"{where}.function must be an object with a name and arguments", "messages")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # a model wrote it, and should see what it wrote
            arguments = json.loads(arguments)
    return {**call, "function": {**function, "arguments": arguments}}


def with_instructions(messages: Sequence[dict[str, Any]], tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """For a template that knows nothing of tools: they are described at the beginning, and calls are told as text."""
    told = [_as_text(message) for message in messages]
    if not tools:
        return told
    text = instructions(tools)
    if told[0]["role"] == "system":
        return [{**told[0], "content": f"{told[0]['content']}\n\n{text}"}, *told[1:]]
    return [{"role": "system", "content": text}, *told]


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    if message["role"] == "tool":
        return {"role": "user", "content": f"The result of the call: {message['content']}"}
    if "tool_calls" in message:
        calls = [json.dumps(call["function"]) for call in message["tool_calls"]]
        return {"role": message["role"], "content": "\n".join(filter(None, [message["content"], *calls]))}
    return message
