"""Reads tool calls that are written as Python, ``[get_weather(city="Paris"), get_time()]``, without running anything.

Llama 3.2 and 4 write calls so when they are told to.
"""

from __future__ import annotations

import ast
import json
import math
import warnings
from typing import Any

__all__ = ["PythonicScanner", "parse_call"]

MAX_CALL = 2**16  # characters
WORDS = {"true": True, "false": False, "null": None}  # which models mix into Python


class PythonicScanner:
    """Takes the text after the ``[`` of a list of calls, a call at a time.

    done, failed : whether the list has ended, or is none.
    """

    def __init__(self) -> None:
        self.done = self.failed = False
        self._text = ""  # of the call that is being read
        self._depth = 0  # brackets that are open in it
        self._quote = ""  # of the string that is being read
        self._escaped = False

    def feed(self, text: str) -> tuple[int, str | None]:
        """Read up to the end of a call, of the list, or of `text`.

        Returns how many characters that were, and the call if one has ended. What cannot be a call is `failed`.
        """
        for position, character in enumerate(text, 1):
            if not self._text and character in " \t\r\n,":
                continue
            if not self._text and character == "]":
                self.done = True
                return position, None
            self._text += character
            if self._take(character):
                call, self._text = self._text, ""
                return position, call
            if self._depth < 0 or len(self._text) > MAX_CALL:
                self.failed = True
                return position, None
        return len(text), None

    def _take(self, character: str) -> bool:
        """Whether the call ends with this character."""
        if self._escaped:
            self._escaped = False
        elif self._quote:
            self._escaped = character == "\\"
            self._quote = "" if character == self._quote else self._quote
        elif character in "\"'":
            self._quote = character
        elif character in "([{":
            self._depth += 1
        elif character in ")]}":
            self._depth -= 1
            return not self._depth
        return False


def parse_call(text: str) -> tuple[str, str] | None:
    """Name and arguments, as JSON, of a call such as ``f(a=1, b=["x"])``; None if it is none.

    Values are literals, nested as they may be; nothing is evaluated.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in strings
            call = ast.parse(text.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return None
        arguments = {keyword.arg: _value(keyword.value) for keyword in call.keywords}
        if None in arguments or len(arguments) != len(call.keywords):  # f(**x), or a name given twice
            return None
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        written.encode()  # no lone surrogates
        return ast.unparse(call.func), written
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what the parser, or a value, cannot be
        return None


def _value(node: ast.expr) -> Any:
    """What a literal stands for; ValueError if it is none that JSON has."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, str | bool | int)):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, float) and math.isfinite(node.value):
        return node.value
    if isinstance(node, ast.Name) and node.id in WORDS:
        return WORDS[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        number = _value(node.operand)
        if type(number) in (int, float):
            return -number
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_key(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    raise ValueError(f"{type(node).__name__} is no literal of JSON")


def _key(node: ast.expr | None) -> str:
    key = None if node is None else _value(node)
    if not isinstance(key, str):
        raise ValueError("names in an object are strings")
    return key
