"""Metadata values as bytes of a GGUF file."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from densecore.exceptions import InvalidConfigError
from densecore.gguf.errors import describe
from densecore.gguf.types import ValueType

__all__ = ["encode_string", "encode_value"]

_TYPE_OF_DTYPE = {kind.dtype: kind for kind in ValueType if kind not in (ValueType.STRING, ValueType.ARRAY)}

# Python types that each type takes, and its code for struct.
_ELEMENTS: dict[ValueType, tuple[tuple[type, ...], str]] = {
    ValueType.UINT8: ((int,), "B"),
    ValueType.INT8: ((int,), "b"),
    ValueType.UINT16: ((int,), "H"),
    ValueType.INT16: ((int,), "h"),
    ValueType.UINT32: ((int,), "I"),
    ValueType.INT32: ((int,), "i"),
    ValueType.FLOAT32: ((int, float), "f"),
    ValueType.BOOL: ((bool,), "?"),
    ValueType.STRING: ((str,), ""),
    ValueType.UINT64: ((int,), "Q"),
    ValueType.INT64: ((int,), "q"),
    ValueType.FLOAT64: ((int, float), "d"),
}


def encode_string(text: str) -> bytes:
    """u64 length in bytes, then UTF-8. InvalidConfigError if `text` holds lone surrogates."""
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidConfigError(f"string is {describe(text)}; allowed: text without lone surrogates") from None
    return struct.pack("<Q", len(raw)) + raw


def encode_value(value: Any, kind: ValueType | None = None) -> bytes:
    """u32 type, then the value; arrays name the type of their elements and their length in between.

    Raises InvalidConfigError if GGUF has no type for `value`, or if `kind` cannot hold it.
    """
    if not isinstance(value, np.ndarray | list | tuple):
        kind = _scalar_type(value) if kind is None else ValueType(kind)
        return struct.pack("<I", kind) + _encode_elements([value], kind)
    if kind is None:
        kind = _array_type(value)
    head = struct.pack("<IIQ", ValueType.ARRAY, kind, len(value))
    return head + _encode_elements(value, ValueType(kind))


def _encode_elements(values: Any, kind: ValueType) -> bytes:
    """The elements one after another. Nothing is rounded, wrapped or converted but integers to floats."""
    if kind is ValueType.ARRAY:
        raise InvalidConfigError("metadata type is ARRAY; allowed: the type of the elements, which are not arrays")
    plain = [value.item() if isinstance(value, np.generic) else value for value in values]
    accepted, code = _ELEMENTS[kind]
    if not all(type(value) in accepted for value in plain):
        raise InvalidConfigError(f"metadata value is {describe(plain)}; allowed: what {kind.name} holds")
    if kind is ValueType.STRING:
        return b"".join(map(encode_string, plain))
    try:
        return struct.pack(f"<{len(plain)}{code}", *plain)
    except (struct.error, OverflowError) as error:
        raise InvalidConfigError(f"metadata value is {describe(plain)}; allowed: what {kind.name} holds") from error


def _scalar_type(value: Any) -> ValueType:
    if isinstance(value, np.generic) and value.dtype in _TYPE_OF_DTYPE:
        return _TYPE_OF_DTYPE[value.dtype]
    if isinstance(value, bool):
        return ValueType.BOOL
    if isinstance(value, str):
        return ValueType.STRING
    if isinstance(value, float):
        return ValueType.FLOAT32
    if isinstance(value, int):
        return _integer_type(value, value, ValueType.UINT32)
    raise InvalidConfigError(f"metadata value is {describe(value)}; allowed: int, float, bool, str and arrays of them")


def _array_type(values: Any) -> ValueType:
    if isinstance(values, np.ndarray):
        kind = _TYPE_OF_DTYPE.get(values.dtype)
        if kind is None:
            raise InvalidConfigError(f"metadata array is of {values.dtype}; allowed: numbers and bools")
        return kind
    if not values:
        raise InvalidConfigError("metadata array is empty; allowed: an empty array with a type")
    kinds = {_scalar_type(value) for value in values}
    if kinds <= {ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64}:
        return _integer_type(min(values), max(values), ValueType.INT32)
    if len(kinds) > 1:
        raise InvalidConfigError(f"metadata array is {describe(values)}; allowed: elements of one type")
    return kinds.pop()


def _integer_type(low: int, high: int, first: ValueType) -> ValueType:
    """The first of `first` and the 32-bit and 64-bit types that holds `low` to `high`."""
    for kind in (first, ValueType.UINT32, ValueType.INT32, ValueType.UINT64, ValueType.INT64):
        limits = np.iinfo(kind.dtype)
        if limits.min <= low and high <= limits.max:
            return kind
    raise InvalidConfigError(f"metadata value is {low} to {high}; allowed: what 64 bits hold")
