"""Checks of single values: each returns the value in its final form, or raises InvalidConfigError.

Messages name the field, the value it got and what is allowed.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from densecore.exceptions import InvalidConfigError

__all__ = [
    "MAX_GRAMMAR_LENGTH",
    "MAX_INT",
    "MAX_LORA_SCALE",
    "bad_words",
    "callables",
    "flag",
    "instance",
    "integer",
    "json_schema",
    "logit_bias",
    "lora",
    "number",
    "path",
    "strings",
    "text",
]

MAX_INT = 2**31 - 1
MAX_GRAMMAR_LENGTH = 2**17  # characters of a schema, regex or grammar: what compiles within the stack kept for it
MAX_SCHEMA_DEPTH = 64  # objects and arrays within each other
MAX_BAD_WORDS = 1024
MAX_BAD_WORD_LENGTH = 1024  # characters or tokens
MAX_PROCESSORS = 16
MAX_LORAS = 8  # of a request
MAX_LORA_SCALE = 100.0


def integer(name: str, value: Any, minimum: int, maximum: int = MAX_INT) -> int:
    """`value` as an int within [minimum, maximum]; numpy integers pass, bool and float do not."""
    try:
        result = value.__index__() if not isinstance(value, bool) else None
    except AttributeError:
        result = None
    if result is None or not minimum <= result <= maximum:
        raise InvalidConfigError(f"{name} must be an integer from {minimum} to {maximum}, not {value!r}")
    return int(result)


def number(name: str, value: Any, minimum: float, maximum: float, *, open_below: bool = False) -> float:
    """`value` as a finite float within [minimum, maximum], or (minimum, maximum] with `open_below`."""
    try:
        result = math.nan if isinstance(value, bool | str) else float(value)
    except (TypeError, ValueError, OverflowError):
        result = math.nan
    if not minimum <= result <= maximum or (open_below and result == minimum):
        bracket = "above" if open_below else "from"
        raise InvalidConfigError(f"{name} must be a number {bracket} {minimum:g} up to {maximum:g}, not {value!r}")
    return result


def flag(name: str, value: Any) -> bool:
    """`value`, which must be True or False."""
    if not isinstance(value, bool):
        raise InvalidConfigError(f"{name} must be True or False, not {value!r:.80}")
    return value


def instance(name: str, value: Any, kind: type) -> Any:
    """`value`, which must be of this class."""
    if not isinstance(value, kind):
        raise InvalidConfigError(f"{name} must be a {kind.__name__}, not {value!r:.80}")
    return value


def path(name: str, value: Any) -> str:
    """The path of a file as a string, with ~ as the user's folder."""
    found = os.fspath(value) if isinstance(value, str | os.PathLike) else ""
    if not isinstance(found, str) or not found or "\0" in found:
        raise InvalidConfigError(f"{name} must be the path of a file, not {value!r:.80}")
    return os.path.expanduser(found)


def strings(name: str, value: Any, max_count: int, max_length: int) -> tuple[str, ...]:
    """A string, a list of strings or None as a tuple of strings that are not empty."""
    if value is None:
        return ()
    items = _items(name, (value,) if isinstance(value, str) else value, "strings", max_count)
    for item in items:
        if not isinstance(item, str) or not 0 < len(item) <= max_length:
            raise InvalidConfigError(
                f"each of {name} must be a string of 1 to {max_length} characters, not {item!r:.80}"
            )
    return items


def _items(name: str, value: Any, what: str, max_count: int) -> tuple[Any, ...]:
    try:
        items = tuple(value)
    except TypeError:
        raise InvalidConfigError(f"{name} must be a list of {what}, not {value!r:.80}") from None
    if len(items) > max_count:
        raise InvalidConfigError(f"{name} may hold {max_count} {what} at most, not {len(items)}")
    return items


def logit_bias(value: Any) -> dict[int, float]:
    """Token id -> bias; JSON objects have string keys, so digits pass as ids."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"logit_bias must map token ids to numbers, not {value!r:.80}")
    bias = {}
    for token_id, amount in value.items():
        if isinstance(token_id, str) and token_id.isascii() and token_id.isdigit() and len(token_id) < 11:
            token_id = int(token_id)
        bias[integer("a token id of logit_bias", token_id, 0)] = number(
            f"logit_bias[{token_id}]", amount, -100.0, 100.0
        )
    return bias


def lora(value: Any) -> dict[str, float | None] | None:
    """A name, a list of names, or a mapping from names to scales, as such a mapping; None is the adapter's own scale.

    None as a whole is kept: the model decides.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = [value]
    scales = dict(value) if isinstance(value, Mapping) else dict.fromkeys(_items("lora", value, "names", MAX_LORAS))
    if len(scales) > MAX_LORAS:
        raise InvalidConfigError(f"lora may hold {MAX_LORAS} adapters at most, not {len(scales)}")
    for name, scale in scales.items():
        if not isinstance(name, str):
            raise InvalidConfigError(f"lora must be names of adapters, or map names to scales, not {name!r:.80}")
        if scale is not None:
            scales[name] = number(f"lora[{name!r:.80}]", scale, -MAX_LORA_SCALE, MAX_LORA_SCALE)
    return scales


def text(name: str, value: Any) -> str:
    """A regex or grammar: a string that is not empty, not too long, and expressible in UTF-8."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_GRAMMAR_LENGTH:
        size = f"one of {len(value)} characters" if isinstance(value, str) else repr(value)[:80]
        raise InvalidConfigError(f"{name} must be a string of 1 to {MAX_GRAMMAR_LENGTH} characters, not {size}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidConfigError(f"{name} holds a lone surrogate, which no output can contain")
    return value


def json_schema(value: Any) -> str:
    """A JSON Schema, given as a dict or as JSON, as JSON."""
    try:
        source = value if isinstance(value, str) else json.dumps(value, allow_nan=False)
        schema = json.loads(source, parse_constant=_no_constant)
        canonical = json.dumps(schema)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidConfigError(f"json_schema is not JSON: {error or 'it is nested too deeply'}") from None
    if not isinstance(schema, dict):
        raise InvalidConfigError(f"json_schema must be a JSON object, such as {{'type': 'object'}}, not {value!r:.80}")
    if len(canonical) > MAX_GRAMMAR_LENGTH:
        raise InvalidConfigError(
            f"json_schema has {len(canonical)} characters as JSON; at most {MAX_GRAMMAR_LENGTH} are allowed"
        )
    if not _is_shallow(schema):
        raise InvalidConfigError(f"json_schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
    return canonical


def _no_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not a number of JSON")


def _is_shallow(value: Any) -> bool:
    level: list[Any] = [value]
    for _ in range(MAX_SCHEMA_DEPTH + 1):
        level = [child for item in level for child in _children(item)]
        if not level:
            return True
    return False


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def bad_words(value: Any) -> tuple[str | tuple[int, ...], ...]:
    """What must not be written: strings, or lists of token ids."""
    if value is None:
        return ()
    items = _items("bad_words", (value,) if isinstance(value, str) else value, "entries", MAX_BAD_WORDS)
    return tuple(_bad_word(item) for item in items)


def _bad_word(item: Any) -> str | tuple[int, ...]:
    wanted = f"each of bad_words must be a string, or a list of token ids, of length 1 to {MAX_BAD_WORD_LENGTH}"
    try:
        word = item if isinstance(item, str) else tuple(item)
    except TypeError:
        raise InvalidConfigError(f"{wanted}, not {item!r:.80}") from None
    if not 0 < len(word) <= MAX_BAD_WORD_LENGTH:
        raise InvalidConfigError(f"{wanted}, not {item!r:.80}")
    return word if isinstance(word, str) else tuple(integer("a token id of bad_words", part, 0) for part in word)


def callables(name: str, value: Any) -> tuple[Callable[..., Any], ...]:
    """A function, a list of functions or None as a tuple of functions."""
    if value is None:
        return ()
    items = _items(name, (value,) if callable(value) else value, "functions", MAX_PROCESSORS)
    for item in items:
        if not callable(item):
            raise InvalidConfigError(f"each of {name} must be a function, not {item!r:.80}")
    return items
