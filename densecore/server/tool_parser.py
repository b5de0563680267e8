"""Finds tool calls in the text that a model writes, as it comes."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable, Collection
from dataclasses import dataclass

from densecore.server.call_scanner import ArgumentsScanner, CallScanner
from densecore.server.pythonic import PythonicScanner, parse_call
from densecore.server.reasoning import held_back
from densecore.server.tool_formats import ToolFormat

__all__ = ["CallDelta", "ToolParser", "new_call_id"]

STARTS = ("{", "<|python_tag|>{", "```json{", "```{", "[{")  # of an output that is a call, white space aside
BETWEEN = " \t\r\n,;["  # calls
AROUND = BETWEEN + "]`"  # calls without marker, which may be a list, or code in Markdown
SEPARATOR = "[ARGS]"
NAME = re.compile(r"[A-Za-z0-9_.:-]")
NAMED_CALL = re.compile(r"([A-Za-z0-9_.:-]+)\s*(?:\[CALL_ID\]\s*\w*\s*)?")
NAMED_BEGINNING = re.compile(r"[A-Za-z0-9_.:-]+\s*(?:\[[A-Z_]*(?:\]\s*\w*\s*)?(?:\[[A-Z]*)?)?")
MAX_HEADER = 256  # characters of a name and an id
PYTHONIC = re.compile(r"\[\s*([A-Za-z_][\w.]*)?\s*(\()?")
ID_LENGTH = 9  # Mistral's templates insist on nine letters and digits
ID_CHARACTERS = string.ascii_letters + string.digits


def new_call_id() -> str:
    """A name for a call, which its result will refer to."""
    return "".join(secrets.choice(ID_CHARACTERS) for _ in range(ID_LENGTH))


@dataclass(frozen=True)
class CallDelta:
    """A piece of call number `index`: the first has `id` and `name`, all may add to `arguments`."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


Piece = str | CallDelta


class ToolParser:
    """Text in, content and pieces of calls out.

    names : functions that may be called; without a marker only a call of one of these is taken for a call
    inside : the prompt ends with the opening of a call
    """

    def __init__(self, format: ToolFormat, names: Collection[str], *, inside: bool = False) -> None:
        self._format, self._names = format, frozenset(names)
        self._held = ""  # text that is not understood yet
        self._raw = ""  # of a call whose name is not known
        self._scanner = CallScanner()
        self._object, self._list = ArgumentsScanner(), PythonicScanner()
        self._id: str | None = None
        self.num_calls = 0
        steps: dict[str, Callable[[list[Piece]], bool]] = {
            "start": self._start,
            "text": self._text,
            "plain": self._plain,
            "between": self._between,
            "call": self._call,
            "named": self._named,
            "arguments": self._arguments,
            "python": self._python,
        }
        self._steps = steps
        self._state = "between" if inside else "text" if format.marker else "start"

    def feed(self, text: str) -> list[Piece]:
        """What has become certain with `text`."""
        self._held += text
        found: list[Piece] = []
        while self._held and self._steps[self._state](found):
            pass
        return found

    def finish(self) -> list[Piece]:
        """What is left at the end: the beginning of a call that never became one is text."""
        rest = self._raw + self._held
        self._held = self._raw = ""
        if self._state == "between" or (self._state == "text" and self.num_calls):
            rest = rest.strip(BETWEEN if self._format.marker else AROUND)
            if rest and self._format.end.startswith(rest):
                rest = ""
        return [rest] if rest else []

    # Each step takes from the held text; False when it needs more.

    def _start(self, found: list[Piece]) -> bool:
        if (kind := self._is_pythonic(self._held.lstrip())) is not None:
            if kind:
                before, _, self._held = self._held.partition("[")
                self._raw, self._state, self._list = f"{before}[", "python", PythonicScanner()
            return kind
        before, brace, _ = self._held.partition("{")
        begun = "".join((before + brace).split())
        if begun in STARTS:
            self._raw, self._held = before, self._held[len(before) :]
            self._begin_call()
        elif any(start.startswith(begun) for start in STARTS):
            return False
        else:
            self._state = "plain"
        return True

    def _plain(self, found: list[Piece]) -> bool:
        found.append(self._held)
        self._held = ""
        return False

    def _text(self, found: list[Piece]) -> bool:
        before, marker, after = self._held.partition(self._format.marker)
        if marker:
            self._say(before.rstrip(), found)
            self._held, self._state = after, "between"
            return True
        certain = self._held[: len(self._held) - held_back(self._held, self._format.marker)].rstrip()
        self._say(certain, found)
        self._held = self._held[len(certain) :]
        return False

    def _say(self, text: str, found: list[Piece]) -> None:
        if text:
            found.append(text)

    def _between(self, found: list[Piece]) -> bool:
        text = self._held.lstrip(BETWEEN if self._format.marker else AROUND)
        if text.startswith("{"):
            self._held = text
            self._begin_call()
        elif self._format.marker and NAME.match(self._held.lstrip()):
            self._held, self._state = self._held.lstrip(), "named"
        elif self._format.end and text.startswith(self._format.end):
            self._held, self._state = text[len(self._format.end) :], "text"
        elif not text or (self._format.end and self._format.end.startswith(text)):
            return False
        else:
            self._state = "text" if self._format.marker else "plain"
        return True

    def _begin_call(self) -> None:
        self._state, self._scanner, self._id = "call", CallScanner(), None

    def _call(self, found: list[Piece]) -> bool:
        scanner = self._scanner
        length = scanner.feed(self._held)
        text, self._held = self._held[:length], self._held[length:]
        if self._id is None:
            self._raw += text
            if scanner.failed or (scanner.name is not None and not self._is_function(scanner.name)):
                self._state, self._held, self._raw = "plain", self._raw + self._held, ""
                return True
        if scanner.name is not None:
            self._send(found, scanner.name)
        if scanner.done or scanner.failed:
            self._state = "between"
        return True

    def _is_function(self, name: str) -> bool:
        return name in self._names or bool(self._format.marker)

    def _send(self, found: list[Piece], name: str) -> None:
        arguments = self._scanner.take_arguments()
        if self._id is None:
            self._announce(found, name, arguments)
        elif arguments:
            found.append(CallDelta(self.num_calls - 1, arguments))

    def _announce(self, found: list[Piece], name: str, arguments: str) -> None:
        self._id, self._raw = new_call_id(), ""
        found.append(CallDelta(self.num_calls, arguments, self._id, name))
        self.num_calls += 1

    # ``name[ARGS]{...}``, or ``name[CALL_ID]id[ARGS]{...}``

    def _named(self, found: list[Piece]) -> bool:
        header, separator, after = self._held.partition(SEPARATOR)
        if separator and (call := NAMED_CALL.fullmatch(header)):
            self._held, self._state, self._object = after.lstrip(), "arguments", ArgumentsScanner()
            self._announce(found, call[1], "")
            return True
        if separator or len(header) > MAX_HEADER or not NAMED_BEGINNING.fullmatch(header):
            self._state = "text"
            return True
        return False

    def _arguments(self, found: list[Piece]) -> bool:
        length = self._object.feed(self._held)
        text, self._held = self._held[:length], self._held[length:]
        found.append(CallDelta(self.num_calls - 1, text))
        if self._object.done:
            self._state = "text"
        return True

    # ``[f(a=1), g(b="x")]``

    def _is_pythonic(self, text: str) -> bool | None:
        """Whether a list of calls of known functions begins here; None, it does not; False, that is open."""
        begun = PYTHONIC.match(text)
        if begun is None:
            return None
        if begun[2]:
            return True if begun[1] in self._names else None
        rest_is_open = begun.end() == len(text) and any(name.startswith(begun[1] or "") for name in self._names)
        return False if rest_is_open else None

    def _python(self, found: list[Piece]) -> bool:
        length, written = self._list.feed(self._held)
        self._raw, self._held = self._raw + self._held[:length], self._held[length:]
        if written is not None:
            call = parse_call(written)
            if call is None or call[0] not in self._names:
                self._list.failed = True
            else:
                self._announce(found, *call)
        if self._list.failed:
            self._state, self._held, self._raw = "plain", self._raw + self._held, ""
        elif self._list.done:
            self._state, self._raw = "between", ""
        return True
