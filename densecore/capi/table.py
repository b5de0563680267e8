"""The functions that densecore.c calls: C functions in front of `CEngine`, and the table of them at `ADDRESS`.

Each takes what its namesake in densecore.h takes, and a buffer for the text of an error. No exception leaves them, and
engines are known to C by numbers alone. `ctypes` takes the GIL for each call, from whatever thread, and lets go of it
while a C callback runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import itertools
import json
import os
import secrets
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from densecore.capi.codes import OK, code_of, message_of
from densecore.capi.engine import CEngine, TokenReceiver, VectorReceiver
from densecore.capi.metrics import BasicMetrics, DetailedMetrics, fill
from densecore.config import PINNING_POLICIES, GenerationConfig
from densecore.exceptions import InvalidConfigError
from densecore.llm import DenseCore

__all__ = ["ADDRESS"]

TABLE_VERSION = 1
ERROR_SIZE = 1024  # bytes of the buffer for an error's text
EXIT_SECONDS = 5.0  # that the end of the process waits for a callback

_text, _int, _pointer, _handle = ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
_token_callback = ctypes.CFUNCTYPE(None, _text, _int, _pointer)
_embedding_callback = ctypes.CFUNCTYPE(None, _pointer, _int, _pointer)

# ---------------------------------------------------------------------- engines by handle

_engines: dict[int, CEngine] = {}
_engines_lock = threading.Lock()
# Odd, hard to guess and never used twice: no pointer, number or freed handle of the program is taken for an engine.
_new_handles = itertools.count(secrets.randbits(8 * ctypes.sizeof(_pointer) - 4) | 1, 2)


def _engine(handle: int) -> CEngine:
    engine = _engines.get(handle)
    if engine is None:
        raise InvalidConfigError(_wrong_handle(handle))
    return engine


def _wrong_handle(handle: int) -> str:
    return f"{hex(handle) if handle else 'NULL'} is no engine: InitEngine did not return it, or it was freed"


# ---------------------------------------------------------------------- arguments from C


def _decoded(name: str, value: bytes | None) -> str:
    if value is None:
        raise InvalidConfigError(f"{name} is NULL")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidConfigError(f"{name} is not valid UTF-8, at byte {error.start}") from None


def _from_json(name: str, value: bytes | None, kind: type, kind_name: str) -> Any:
    try:
        parsed = json.loads(_decoded(name, value))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidConfigError(f"{name} is not valid JSON: {error}") from None
    if not isinstance(parsed, kind):
        raise InvalidConfigError(f"{name} must be a JSON {kind_name}")
    return parsed


def _config(options_json: bytes | None) -> GenerationConfig:
    options = {} if options_json is None else _from_json("options_json", options_json, dict, "object")
    bias = options.get("logit_bias")
    if isinstance(bias, dict):  # JSON has no numbers for keys
        with contextlib.suppress(ValueError):
            options["logit_bias"] = {int(key): number for key, number in bias.items()}
    unknown = sorted(options.keys() - GenerationConfig.names())
    if unknown:
        raise InvalidConfigError(f"options_json has an unknown field {unknown[0]!r}: it takes GenerationConfig's")
    return GenerationConfig(**options)


def _token_ids(engine: CEngine, address: int | None, count: int) -> list[int]:
    """Copy of an array; its length is checked before it is read."""
    if address is None:
        raise InvalidConfigError("tokens is NULL")
    if not 1 <= count <= engine.model.max_model_len:
        raise InvalidConfigError(f"n_tokens must be from 1 to the context, {engine.model.max_model_len}, not {count}")
    return list((_int * count).from_address(address))


def _token_receiver(callback: int | None, user_data: int | None) -> TokenReceiver:
    if callback is None:
        raise InvalidConfigError("the callback is NULL")
    call = _token_callback(callback)
    return lambda text, is_finished: call(text, is_finished, user_data)


def _vector_receiver(callback: int | None, user_data: int | None) -> VectorReceiver:
    if callback is None:
        raise InvalidConfigError("the callback is NULL")
    call = _embedding_callback(callback)

    def receive(vector: np.ndarray | None) -> None:
        if vector is None:
            call(None, 0, user_data)
        else:
            call(vector.ctypes.data, vector.size, user_data)

    return receive


# ---------------------------------------------------------------------- the functions

_functions: list[tuple[str, Any]] = []  # of the table, in its order


def _in_table(result: Any, *arguments: Any, failure: int | None = None) -> Callable[[Callable], Callable]:
    """Make a C function of these types, and of an error buffer behind; it returns `failure`, or the error's code."""

    def decorate(function: Callable) -> Callable:
        @functools.wraps(function)
        def guarded(*values: Any) -> int:
            *given, buffer = values
            try:
                return function(*given)
            except BaseException as error:  # nothing may get past here, as C has no exceptions
                _tell(buffer, message_of(error))
                return code_of(error) if failure is None else failure

        _functions.append((function.__name__, ctypes.CFUNCTYPE(result, *arguments, _pointer)(guarded)))
        return guarded

    return decorate


def _tell(buffer: int | None, message: str) -> None:
    if buffer is not None:
        data = message.encode(errors="replace")[: ERROR_SIZE - 1].decode(errors="ignore").encode()  # whole characters
        ctypes.memmove(buffer, data + b"\0", len(data) + 1)


@_in_table(_handle, _text, _text, _int, _int, _int, failure=0)
def init_engine(path: bytes | None, reserved: bytes | None, threads: int, node: int, pinning: int) -> int:
    if path is None:
        raise InvalidConfigError("model_path is NULL")
    if reserved is not None:
        raise InvalidConfigError("reserved must be NULL")
    if not 0 <= pinning < len(PINNING_POLICIES):
        known = ", ".join(f"{number} ({name})" for number, name in enumerate(PINNING_POLICIES))
        raise InvalidConfigError(f"pinning_policy must be one of {known}, not {pinning}")
    model = DenseCore(os.fsdecode(path), threads, numa_node_id=node, pinning=PINNING_POLICIES[pinning])
    handle = next(_new_handles)
    with _engines_lock:
        _engines[handle] = CEngine(model)
    return handle


@_in_table(_int, _handle)
def free_engine(handle: int) -> int:
    with _engines_lock:
        engine = _engines.pop(handle, None)
    if engine is None:
        raise InvalidConfigError(_wrong_handle(handle))
    engine.close()
    del engine
    gc.collect()  # a model is full of circular references: its memory is to go now, not when Python next looks for them
    return OK


@_in_table(_int, _handle, _text, _int, _pointer, _pointer)
def submit(handle: int, prompt: bytes | None, max_tokens: int, callback: int | None, user_data: int | None) -> int:
    config = GenerationConfig(max_tokens=max_tokens, temperature=0.0)
    return _engine(handle).submit(_decoded("prompt", prompt), config, _token_receiver(callback, user_data))


@_in_table(_int, _handle, _pointer, _int, _int, _pointer, _pointer)
def submit_ids(
    handle: int, tokens: int | None, n_tokens: int, max_tokens: int, callback: int | None, user_data: int | None
) -> int:
    engine, config = _engine(handle), GenerationConfig(max_tokens=max_tokens, temperature=0.0)
    return engine.submit(_token_ids(engine, tokens, n_tokens), config, _token_receiver(callback, user_data))


@_in_table(_int, _handle, _text, _text, _pointer, _pointer)
def submit_with_options(
    handle: int, prompt: bytes | None, options: bytes | None, callback: int | None, user_data: int | None
) -> int:
    return _engine(handle).submit(_decoded("prompt", prompt), _config(options), _token_receiver(callback, user_data))


@_in_table(_int, _handle, _text, _text, _pointer, _pointer)
def submit_chat(
    handle: int, messages: bytes | None, options: bytes | None, callback: int | None, user_data: int | None
) -> int:
    engine = _engine(handle)
    prompt = engine.model.apply_chat_template(_from_json("messages_json", messages, list, "array"))
    config = engine.model.chat_config(_config(options))
    return engine.submit(prompt, config, _token_receiver(callback, user_data))


@_in_table(_int, _handle, _text, _pointer, _pointer)
def submit_embedding(handle: int, prompt: bytes | None, callback: int | None, user_data: int | None) -> int:
    return _engine(handle).submit_embedding(_decoded("prompt", prompt), _vector_receiver(callback, user_data))


@_in_table(_int, _handle, _int)
def cancel(handle: int, request_id: int) -> int:
    _engine(handle).cancel(request_id)
    return OK


@_in_table(_int, _handle, _int, _int)
def wait(handle: int, request_id: int, timeout_ms: int) -> int:
    _engine(handle).wait(request_id, None if timeout_ms < 0 else timeout_ms / 1000)
    return OK


@_in_table(_int, _handle, _pointer)
def get_metrics(handle: int, metrics: int) -> int:
    fill(BasicMetrics.from_address(metrics), _engine(handle).model.get_metrics())
    return OK


@_in_table(_int, _handle, _pointer)
def get_detailed_metrics(handle: int, metrics: int) -> int:
    fill(DetailedMetrics.from_address(metrics), _engine(handle).model.get_metrics())
    return OK


def at_exit() -> None:
    """End all engines before the process goes away under threads that compute."""
    with contextlib.suppress(Exception):
        while _engines:
            _engines.popitem()[1].close(EXIT_SECONDS)


_functions.append((at_exit.__name__, ctypes.CFUNCTYPE(None)(at_exit)))


class _Table(ctypes.Structure):
    """``Table`` of densecore.c."""

    _fields_ = [("version", _int), *((name, _pointer) for name, _ in _functions)]


_table = _Table(TABLE_VERSION, *(ctypes.cast(function, _pointer) for _, function in _functions))
ADDRESS = ctypes.addressof(_table)
