"""From a model's text to what a client sees: reasoning, content and tool calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from densecore.server.reasoning import ReasoningSplitter
from densecore.server.tool_parser import CallDelta, ToolParser

__all__ = ["Delta", "Message", "OutputParser"]


@dataclass(frozen=True)
class Delta:
    """A piece of a message; exactly one of these is there."""

    content: str = ""
    reasoning: str = ""
    call: CallDelta | None = None

    def to_json(self) -> dict[str, Any]:
        """As in a chunk of a stream."""
        if self.call is None:
            return {"content": self.content} if self.content else {"reasoning_content": self.reasoning}
        call, function = self.call, {"arguments": self.call.arguments}
        if call.name is None:
            return {"tool_calls": [{"index": call.index, "function": function}]}
        first = {"index": call.index, "id": call.id, "type": "function", "function": {"name": call.name} | function}
        return {"tool_calls": [first]}


class OutputParser:
    """Text in, deltas out; without `reasoning` and `tools` text is content."""

    def __init__(self, reasoning: ReasoningSplitter | None, tools: ToolParser | None) -> None:
        self._reasoning, self._tools = reasoning, tools

    @property
    def has_calls(self) -> bool:
        """Whether a tool was called."""
        return self._tools is not None and self._tools.num_calls > 0

    def feed(self, text: str) -> list[Delta]:
        """What has become certain with `text`."""
        return self._split(self._reasoning.feed(text) if self._reasoning else [(False, text)])

    def finish(self) -> list[Delta]:
        """What is left at the end."""
        deltas = self._split(self._reasoning.finish()) if self._reasoning else []
        return deltas + (self._deltas(self._tools.finish()) if self._tools else [])

    def _split(self, parts: list[tuple[bool, str]]) -> list[Delta]:
        deltas: list[Delta] = []
        for is_reasoning, text in parts:
            if is_reasoning:
                deltas.append(Delta(reasoning=text))
            else:
                deltas += self._deltas(self._tools.feed(text) if self._tools else [text])
        return deltas

    @staticmethod
    def _deltas(pieces: list[str | CallDelta]) -> list[Delta]:
        return [Delta(content=piece) if isinstance(piece, str) else Delta(call=piece) for piece in pieces if piece]


@dataclass
class Message:
    """The deltas of an answer put together."""

    content: str = ""
    reasoning: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, parser: OutputParser) -> Message:
        """The message that a whole text is."""
        message = cls()
        for delta in [*parser.feed(text), *parser.finish()]:
            message.add(delta)
        return message

    def add(self, delta: Delta) -> None:
        self.content += delta.content
        self.reasoning += delta.reasoning
        if delta.call is None:
            return
        if delta.call.name is not None:
            function = {"name": delta.call.name, "arguments": ""}
            self.calls.append({"id": delta.call.id, "type": "function", "function": function})
        self.calls[-1]["function"]["arguments"] += delta.call.arguments

    def to_json(self) -> dict[str, Any]:
        """As in an answer that is not streamed."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content or (None if self.calls else "")}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        return message
