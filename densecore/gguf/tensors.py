"""The tensor table of a GGUF file: names, shapes, types, and where the data lies."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

from densecore.gguf.cursor import Cursor
from densecore.gguf.errors import describe
from densecore.gguf.types import GGMLType

__all__ = [
    "MAX_DIMS",
    "MAX_NAME_BYTES",
    "MIN_ENTRY_BYTES",
    "TensorInfo",
    "place_tensors",
    "read_tensor_table",
]

MAX_DIMS = 4
MAX_NAME_BYTES = 64
MIN_ENTRY_BYTES = 8 + 1 + 4 + 8 + 4 + 8  # name of one byte, n_dims, one dimension, type, offset
_MAX_ELEMENTS = (1 << 63) - 1
_REMOVED = {4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as the file describes it."""

    name: str
    shape: tuple[int, ...]  # (ne0, ne1, ...) as in the file: ne0 is contiguous, a matrix is (n_in, n_out)
    type: GGMLType
    n_bytes: int
    part: int  # index of the file among the parts of a split model
    offset: int  # bytes from the start of that file

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


def read_tensor_table(cursor: Cursor, count: int, alignment: int, part: int) -> list[TensorInfo]:
    """Reads `count` entries; their offsets are still relative to the data, which starts after the table."""
    table: dict[str, TensorInfo] = {}
    for index in range(count):
        start = cursor.pos
        name = cursor.string(f"tensor {index} name", MAX_NAME_BYTES)
        if name in table:
            raise cursor.error(f"tensor {index} name", f"is {describe(name)} again", "each name once", start)
        table[name] = _read_entry(cursor, name, alignment, part)
    return list(table.values())


def _read_entry(cursor: Cursor, name: str, alignment: int, part: int) -> TensorInfo:
    field = f"tensor {describe(name)}"
    shape = _read_shape(cursor, field)
    kind = _read_type(cursor, field)
    if shape[0] % kind.block_size:
        allowed = f"a multiple of {kind.block_size}, the block of {kind.name}"
        row_length = cursor.pos - 4 - 8 * len(shape)
        raise cursor.error(f"{field} dimension 0 (row length)", f"is {shape[0]}", allowed, row_length)
    offset = cursor.u64(f"{field} offset")
    if offset % alignment:
        allowed = f"a multiple of the alignment {alignment}"
        raise cursor.error(f"{field} offset", f"is {offset}", allowed, cursor.pos - 8)
    return TensorInfo(name, shape, kind, kind.n_bytes(math.prod(shape)), part, offset)


def _read_shape(cursor: Cursor, field: str) -> tuple[int, ...]:
    n_dims = cursor.u32(f"{field} n_dims")
    if not 1 <= n_dims <= MAX_DIMS:
        raise cursor.error(f"{field} n_dims", f"is {n_dims}", f"1 to {MAX_DIMS} dimensions", cursor.pos - 4)
    start = cursor.pos
    shape = tuple(cursor.u64(f"{field} dimension {axis}") for axis in range(n_dims))
    for axis, size in enumerate(shape):
        if size == 0:
            raise cursor.error(f"{field} dimension {axis}", "is 0", "at least 1", start + 8 * axis)
    if math.prod(shape) > _MAX_ELEMENTS:
        problem = f"are {describe(shape)}, {math.prod(shape)} elements"
        raise cursor.error(f"{field} dimensions", problem, f"at most {_MAX_ELEMENTS} elements", start)
    return shape


def _read_type(cursor: Cursor, field: str) -> GGMLType:
    number = cursor.u32(f"{field} type")
    try:
        return GGMLType(number)
    except ValueError:
        problem = f"is {number}, which is unknown"
        if number in _REMOVED:
            problem = f"is {number} ({_REMOVED[number]}), which was removed from the format: quantize again"
        allowed = f"a type of ggml, from {min(GGMLType)} (F32) to {max(GGMLType)} ({max(GGMLType).name})"
        raise cursor.error(f"{field} type", problem, allowed, cursor.pos - 4) from None


def place_tensors(cursor: Cursor, table: list[TensorInfo], data_start: int) -> list[TensorInfo]:
    """The tensors with offsets from the start of the file, once each is known to lie there, alone."""
    placed = [replace(tensor, offset=data_start + tensor.offset) for tensor in table]
    for tensor in placed:
        if tensor.offset + tensor.n_bytes > cursor.size:
            problem = f"takes {tensor.n_bytes} bytes"
            allowed = f"data that ends at byte {cursor.size}, where the file ends (is it truncated?)"
            raise cursor.error(f"tensor {describe(tensor.name)} data", problem, allowed, tensor.offset)
    in_file_order = sorted(placed, key=lambda tensor: tensor.offset)
    for before, after in pairwise(in_file_order):
        end = before.offset + before.n_bytes
        if end > after.offset:
            problem = f"overlaps tensor {describe(before.name)}, which takes bytes {before.offset} to {end}"
            allowed = f"at least byte {end}"
            raise cursor.error(f"tensor {describe(after.name)} data", problem, allowed, after.offset)
    return placed
