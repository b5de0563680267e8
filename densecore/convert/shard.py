"""One safetensors file: a JSON header in front of raw data, checked before anything is mapped.

Layout: u64 little-endian length of the header; the header, an object from tensor name to ``dtype``, ``shape`` and
``data_offsets``; the data. Source: the safetensors format's own description. numpy has no BF16, and what is needed
are views of the mapped file, so these few lines stand in place of a dependency.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from densecore.convert.json_files import parse_json
from densecore.convert.lazy import DTYPES, LazyTensor
from densecore.gguf.errors import describe, load_error
from densecore.gguf.source import open_bytes

__all__ = ["read_shard"]

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_DIMS = 8
_LENGTH_BYTES = 8


def read_shard(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file by name, each a view of its map.

    Raises ModelLoadError for a file that is truncated, whose tensors overlap or do not fit their shapes, or whose
    header is not what the format says. Tensors of types that DenseCore does not know are an error, too.
    """
    data = np.frombuffer(open_bytes(path, use_mmap=True), np.uint8)
    header = _header(path, data)
    header.pop("__metadata__", None)
    start = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    spans: list[tuple[int, int, str]] = []
    tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _entry(path, name, entry, len(data) - start)
        if begin < end:
            spans.append((begin, end, name))
        values = data[start + begin : start + end]
        tensors[name] = LazyTensor(dtype, shape, (values.view(DTYPES[dtype]).reshape(shape),))
    _check_overlaps(path, spans)
    return tensors


def _header(path: Path, data: np.ndarray) -> dict[str, Any]:
    length = int.from_bytes(data[:_LENGTH_BYTES].tobytes(), "little")
    most = min(len(data) - _LENGTH_BYTES, MAX_HEADER_BYTES)
    if length > most or most < 2:
        allowed = f"at most {max(most, 0)} for a file of {len(data)} bytes"
        raise load_error(path, "header length", f"is {length}: not a safetensors file, or a truncated one", allowed)
    return parse_json(path, data[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes(), "header")


def _entry(path: Path, name: str, entry: Any, n_data: int) -> tuple[str, tuple[int, ...], int, int]:
    """Type, shape and place of a tensor in data of `n_data` bytes, checked."""
    field = f"tensor {describe(name)}"
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        numbers = (*shape, begin, end)
    except (KeyError, TypeError, ValueError):
        allowed = "an object with dtype, shape and data_offsets"
        raise load_error(path, field, f"is described as {describe(entry)}", allowed) from None
    if dtype not in DTYPES if isinstance(dtype, str) else True:
        raise load_error(path, f"{field} dtype", f"is {describe(dtype)}", ", ".join(DTYPES))
    if not all(type(number) is int and number >= 0 for number in numbers) or len(shape) > MAX_DIMS:
        allowed = f"non-negative integers, at most {MAX_DIMS} dimensions"
        raise load_error(path, field, f"has shape {describe(list(shape))} at {describe([begin, end])}", allowed)
    if not begin <= end <= n_data:
        problem = f"lies at bytes {begin} to {end} of {n_data} bytes of data: the file is truncated or broken"
        raise load_error(path, field, problem, "a place inside of the file")
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != needed:
        raise load_error(path, field, f"has {end - begin} bytes", f"{needed} for {dtype} of shape {list(shape)}")
    return dtype, shape, begin, end


def _check_overlaps(path: Path, spans: list[tuple[int, int, str]]) -> None:
    spans.sort()
    for (_, end, first), (begin, _, second) in pairwise(spans):
        if begin < end:
            problem = f"overlaps tensor {describe(second)}"
            raise load_error(path, f"tensor {describe(first)}", problem, "a place of its own for each tensor")
