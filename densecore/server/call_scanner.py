"""Reads one tool call, ``{"name": ..., "arguments": {...}}``, or arguments alone, as their text comes."""

from __future__ import annotations

import json

__all__ = ["ArgumentsScanner", "CallScanner"]

ARGUMENTS = ("arguments", "parameters")  # what the field is called
MAX_NAME = 512  # characters of a name, or of a field that is none of ours


class CallScanner:
    """Takes the text of a JSON object that begins with ``{``.

    name : the function's, once it is known.
    done, failed : whether the object is complete, or is no call.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self.done = self.failed = False
        self._depth = 0
        self._in_string = self._escaped = False
        self._key: str | None = None  # of the value that is being read; None while a key is
        self._text = ""  # of that key or value
        self._arguments = ""  # not taken yet
        self._had_arguments = self._is_quoted = False  # some models write the object into a string

    def feed(self, text: str) -> int:
        """Read on; returns how many characters belonged to the object."""
        for position, character in enumerate(text):
            if self.done or self.failed:
                return position
            self._take(character)
        return len(text)

    def take_arguments(self) -> str:
        """What has come of the arguments since the last time, once the name is known; ``{}`` if there are none."""
        if self.name is None:
            return ""
        if self._key in ARGUMENTS and not self._is_quoted:
            self._arguments += self._text
            self._text = ""
        text, self._arguments = self._arguments, ""
        if self.done and not self._had_arguments:
            self._had_arguments = True
            return "{}"
        return text

    def _take(self, character: str) -> None:
        if self._in_string:
            self._take_in_string(character)
        elif character == '"':
            self._in_string = True
            self._append(character)
        elif character in "{[":
            self._depth += 1
            if self._depth > 1:
                self._append(character)
        elif character in "}]":
            self._close(character)
        elif self._depth == 1 and character == ":" and self._key is None:
            self._end_key()
        elif self._depth == 1 and character == ",":
            self._end_value()
        elif not (character.isspace() and not self._is_arguments_begun()):
            self._append(character)

    def _is_arguments_begun(self) -> bool:
        """Whether white space is part of arguments, which are passed on as they are written."""
        return self._depth > 1 and self._key in ARGUMENTS

    def _take_in_string(self, character: str) -> None:
        self._append(character)
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False

    def _append(self, character: str) -> None:
        self._text += character
        if self._key in ARGUMENTS:
            self._is_quoted = self._is_quoted or (not self._had_arguments and character == '"')
            self._had_arguments = True
        elif len(self._text) > MAX_NAME and self._key in (None, "name"):
            self.failed = True

    def _close(self, character: str) -> None:
        self._depth -= 1
        if self._depth:
            self._append(character)
            return
        self._end_value()
        self.done = not self.failed
        if self.name is None:
            self.done, self.failed = False, True

    def _end_key(self) -> None:
        key = _decoded(self._text)
        if not isinstance(key, str):
            self.failed = True
            return
        self._key, self._text = key, ""

    def _end_value(self) -> None:
        if self._key == "name":
            name = _decoded(self._text)
            self.name, self.failed = (name, False) if isinstance(name, str) and name else (None, True)
        elif self._key in ARGUMENTS:
            written = _decoded(self._text) if self._is_quoted else None
            self._arguments += written if isinstance(written, str) else self._text
        self._key, self._text = None, ""


class ArgumentsScanner:
    """Takes the text of a JSON object, ``{"city": "Paris"}``, and finds its end.

    done : whether it is complete.
    """

    def __init__(self) -> None:
        self.done = False
        self._depth = 0
        self._in_string = self._escaped = False

    def feed(self, text: str) -> int:
        """Read on; returns how many characters belonged to the object."""
        for position, character in enumerate(text, 1):
            self._take(character)
            if self.done:
                return position
        return len(text)

    def _take(self, character: str) -> None:
        if self._escaped:
            self._escaped = False
        elif self._in_string:
            self._escaped, self._in_string = character == "\\", character != '"'
        elif character == '"':
            self._in_string = True
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.done = self._depth <= 0


def _decoded(text: str) -> object:
    """The value; None if it is none, or a string that UTF-8 cannot express."""
    try:
        value = json.loads(text)
        if isinstance(value, str):
            value.encode()
        return value
    except (ValueError, RecursionError):
        return None
