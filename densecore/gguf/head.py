"""What stands before the tensor data: header, metadata and tensor table of one GGUF file.

Layout, all little-endian: ``GGUF``, u32 version, u64 number of tensors, u64 number of key-value pairs; the pairs;
the tensor table; padding to the alignment; the data. Source: the GGUF specification, versions 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from densecore.gguf.cursor import Cursor
from densecore.gguf.errors import describe
from densecore.gguf.metadata import Metadata
from densecore.gguf.source import guess_format
from densecore.gguf.tensors import MIN_ENTRY_BYTES, TensorInfo, place_tensors, read_tensor_table
from densecore.gguf.types import ValueType

__all__ = ["ALIGNMENT_KEY", "DEFAULT_ALIGNMENT", "MAGIC", "MAX_KEY_BYTES", "VERSIONS", "Head", "read_head"]

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_KEY_BYTES = 65535
_MIN_PAIR_BYTES = 8 + 1 + 4 + 1  # key of one byte, type, value of one byte


@dataclass(frozen=True)
class Head:
    """Everything that one file says about itself, checked."""

    version: int
    alignment: int
    metadata: Metadata
    tensors: list[TensorInfo]


def read_head(cursor: Cursor, part: int = 0) -> Head:
    """Reads the file under `cursor` up to its data; ModelLoadError at the first thing that is not right."""
    version = _read_version(cursor)
    n_tensors = cursor.u64("header tensor_count")
    n_pairs = cursor.count("header metadata_kv_count", _MIN_PAIR_BYTES)
    most = (cursor.remaining - n_pairs * _MIN_PAIR_BYTES) // MIN_ENTRY_BYTES
    if n_tensors > most:
        allowed = f"at most {most}, for the {cursor.remaining} bytes left"
        raise cursor.error("header tensor_count", f"is {n_tensors}", allowed, 8)
    metadata = _read_metadata(cursor, n_pairs)
    alignment = _alignment(metadata)
    table = read_tensor_table(cursor, n_tensors, alignment, part)
    data_start = -(-cursor.pos // alignment) * alignment
    return Head(version, alignment, metadata, place_tensors(cursor, table, data_start))


def _read_version(cursor: Cursor) -> int:
    head = cursor.data[:64]
    if head[:4] != MAGIC:
        guess = guess_format(head)
        looks = f" (this looks like {guess})" if guess else ""
        raise cursor.error("header magic", f"is {describe(head[:4])}{looks}", f"{MAGIC!r}")
    cursor.take(4, "header magic")
    version = cursor.u32("header version")
    if version in VERSIONS:
        return version
    problem = f"is {version}"
    if int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *VERSIONS):
        problem += " with its bytes swapped: this is a big-endian file"
    raise cursor.error("header version", problem, "2 or 3, little-endian", 4)


def _read_metadata(cursor: Cursor, n_pairs: int) -> Metadata:
    values: dict[str, Any] = {}
    types: dict[str, ValueType] = {}
    for index in range(n_pairs):
        start = cursor.pos
        key = cursor.string(f"metadata key {index}", MAX_KEY_BYTES)
        if key in values:
            raise cursor.error(f"metadata key {describe(key)}", "is a duplicate", "each key once", start)
        values[key], types[key] = _read_value(cursor, f"metadata {describe(key)}")
    return Metadata(values, types, cursor.path)


def _read_value(cursor: Cursor, field: str) -> tuple[Any, ValueType]:
    kind = _read_value_type(cursor, f"{field} type")
    if kind is ValueType.STRING:
        return cursor.string(field), kind
    if kind is ValueType.ARRAY:
        kind = _read_value_type(cursor, f"{field} array element type")
        return _read_array(cursor, field, kind), kind
    return _read_numbers(cursor, field, kind, 1)[0].item(), kind


def _read_value_type(cursor: Cursor, field: str) -> ValueType:
    number = cursor.u32(field)
    try:
        return ValueType(number)
    except ValueError:
        raise cursor.error(field, f"is {number}", f"0 to {max(ValueType).value}", cursor.pos - 4) from None


def _read_array(cursor: Cursor, field: str, kind: ValueType) -> list[str] | np.ndarray:
    if kind is ValueType.ARRAY:
        problem = f"is {kind.value}: an array of arrays"
        allowed = "numbers, bools and strings; nested arrays are not supported"
        raise cursor.error(f"{field} array element type", problem, allowed, cursor.pos - 4)
    if kind is ValueType.STRING:
        return cursor.strings(cursor.count(f"{field} array length", 8), field)
    return _read_numbers(cursor, field, kind, cursor.count(f"{field} array length", kind.dtype.itemsize))


def _read_numbers(cursor: Cursor, field: str, kind: ValueType, count: int) -> np.ndarray:
    """`count` numbers or bools as a read-only array of their own: the map may be closed, and is unaligned."""
    start = cursor.take(count * kind.dtype.itemsize, field)
    if kind is ValueType.BOOL:
        raw = np.frombuffer(cursor.data[start : cursor.pos], np.uint8)
        if raw.size and raw.max() > 1:
            where = int((raw > 1).argmax())
            raise cursor.error(field, f"is {raw[where]}", "0 or 1 for a bool", start + where)
    # A slice of a map is bytes, which numpy wraps without another copy and keeps read-only.
    return np.frombuffer(cursor.data[start : cursor.pos], kind.dtype)


def _alignment(metadata: Metadata) -> int:
    """``general.alignment``: the specification wants a u32 that is a multiple of 8, all readers a power of two."""
    value = metadata.integer(ALIGNMENT_KEY, DEFAULT_ALIGNMENT)
    if value < 8 or value & (value - 1):
        raise metadata.error(ALIGNMENT_KEY, f"is {value}", "a power of two, at least 8")
    if ALIGNMENT_KEY in metadata and metadata.value_type(ALIGNMENT_KEY) is not ValueType.UINT32:
        raise metadata.error(ALIGNMENT_KEY, f"is of type {metadata.value_type(ALIGNMENT_KEY).name}", "UINT32")
    return value
