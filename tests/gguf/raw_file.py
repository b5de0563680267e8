"""GGUF files put together from bytes, so that each field can be wrong: independent of the writer under test."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

# Type numbers of metadata values, from the GGUF specification.
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "<B", I8: "<b", U16: "<H", I16: "<h", U32: "<I", I32: "<i", F32: "<f",
           BOOL: "<?", U64: "<Q", I64: "<q", F64: "<d"}  # fmt: skip


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes, length: int | None = None) -> bytes:
    """A string, with a false `length` if given."""
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw) if length is None else length) + raw


def value(kind: int, content: Any) -> bytes:
    """The bytes of one value, without its type."""
    return text(content) if kind == STRING else struct.pack(FORMATS[kind], content)


def pair(key: str | bytes, kind: int, payload: bytes, *, key_length: int | None = None) -> bytes:
    """A key, the type `kind`, and `payload` as it is."""
    return text(key, key_length) + u32(kind) + payload


def scalar(key: str, kind: int, content: Any) -> bytes:
    return pair(key, kind, value(kind, content))


def array(key: str, kind: int, contents: Sequence[Any], *, count: int | None = None) -> bytes:
    """An array of `contents`, with a false `count` if given."""
    body = b"".join(value(kind, content) for content in contents)
    return pair(key, ARRAY, u32(kind) + u64(len(contents) if count is None else count) + body)


def tensor(name: str | bytes, dims: Sequence[int], kind: int, offset: int, *, n_dims: int | None = None) -> bytes:
    """An entry of the tensor table, with a false `n_dims` if given."""
    count = len(dims) if n_dims is None else n_dims
    return text(name) + u32(count) + b"".join(map(u64, dims)) + u32(kind) + u64(offset)


PAIRS = (
    scalar("general.architecture", STRING, "llama"),
    scalar("test.u32", U32, 7),
    scalar("test.bool", BOOL, True),
    array("test.tokens", STRING, ["a", "b\u00e9", "\u4e16\u754c", ""]),
    array("test.scores", F32, [0.0, -1.0, -2.0]),
)
# 8 x 4 F32 in 128 bytes, 32 x 2 Q8_0 in 68 bytes, 3 F32 in 12 bytes
TENSORS = (
    tensor("a.weight", (8, 4), 0, 0),
    tensor("b.weight", (32, 2), 8, 128),
    tensor("c.weight", (3,), 0, 224),
)
DATA = bytes(range(236))


def build(
    pairs: Sequence[bytes] = PAIRS,
    tensors: Sequence[bytes] = TENSORS,
    data: bytes = DATA,
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    n_tensors: int | None = None,
    n_pairs: int | None = None,
    alignment: int = 32,
) -> bytes:
    """A whole file; without arguments a valid one of three tensors that ends with its last byte of data."""
    head = magic + u32(version)
    head += u64(len(tensors) if n_tensors is None else n_tensors)
    head += u64(len(pairs) if n_pairs is None else n_pairs)
    head += b"".join((*pairs, *tensors))
    return head + bytes(-len(head) % alignment if alignment else 0) + data
