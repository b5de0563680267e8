"""From the bytes of a request to a checked object. What JSON allows and no client means is refused: 400."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from densecore.server.errors import ApiError, bad_request

__all__ = ["parse_json", "read_body", "reads"]

MAX_DEPTH = 96  # objects and arrays within each other
SMALL = 2**16  # bytes that are parsed on the event loop

Model = TypeVar("Model", bound=BaseModel)


def parse_json(data: bytes) -> dict[str, Any]:
    """The JSON object that `data` is.

    Refused are bad UTF-8, lone surrogates, NaN and Infinity, numbers beyond float64 or of thousands of digits, names
    given twice, and more than `MAX_DEPTH` levels.
    """
    try:
        value = json.loads(
            data.decode(), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique_names
        )
    except UnicodeDecodeError as error:
        raise bad_request(f"the body is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    except RecursionError:
        raise bad_request(f"the body is nested more than {MAX_DEPTH} levels deep") from None
    except ValueError as error:
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise bad_request(f"the body must be a JSON object, not a {type(value).__name__}")
    _check_contents(value)
    return value


def _no_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice!r:.80} is given twice in an object")
    return found


def _check_contents(value: Any) -> None:
    """Depth, and characters that UTF-8 cannot express, level by level."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _check_text(item)
            elif isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(child for child in item if not isinstance(child, int | float))
        if not below:
            return
        level = below
    raise bad_request(f"the body is nested more than {MAX_DEPTH} levels deep")


def _check_text(text: str) -> None:
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise bad_request(f"the body has the lone surrogate \\u{ord(text[error.start]):04x} in a string") from None


async def read_body(request: Request, seconds: float, most: int) -> bytes:
    """The body; 413 if it is larger than `most` bytes, 408 if it takes longer than `seconds`."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and (len(declared) > 18 or int(declared) > most):
        raise _too_large(most)
    parts, size = [], 0
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                parts.append(part)
                size += len(part)
                if size > most:
                    raise _too_large(most)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {seconds:g} s", code="timeout") from None
    return b"".join(parts)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most} bytes, which is what this server takes")


def reads(model: type[Model]) -> Callable[[Request], Awaitable[Model]]:
    """A dependency of a route: the request's body as `model`."""

    async def read(request: Request) -> Model:
        settings = request.app.state.service.settings
        data = await read_body(request, settings.receive_timeout, settings.max_body_bytes)
        value = parse_json(data) if len(data) < SMALL else await asyncio.to_thread(parse_json, data)
        try:
            return model.model_validate(value)
        except ValidationError as error:
            raise _invalid(error) from None

    return read


def _invalid(error: ValidationError) -> ApiError:
    """The first of the problems, in words, with the place that it is at."""
    problem = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"] if not _is_internal(part))
    return bad_request(f"{place}: {problem['msg']}" if place else problem["msg"], place.split(".")[0] or None)


def _is_internal(part: int | str) -> bool:
    """Whether a part of a place is pydantic's name for a branch of a union."""
    return isinstance(part, str) and (part in ("str", "int", "float", "bool") or "[" in part)
