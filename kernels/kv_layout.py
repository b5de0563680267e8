"""How the keys and values of a layer lie in memory, by type: shapes and sizes. Nothing here is compiled.

=======  ================  =========================================================================================
type     array             a head's row
=======  ================  =========================================================================================
`f32`    float32           head_dim elements, rounded up to a multiple of 8
`f16`    uint16            the same, as bits of float16
`q8_0`   int8              head_dim elements in *groups* of 32, each element int8; then a float16 scale a group: Q8_0
=======  ================  =========================================================================================

* Keys (num_blocks, n_kv_heads, row, block_room): element by element, positions side by side, because that is what a
  vector of scores needs. `block_room` is block_size rounded up to a multiple of 16. The scales of a group, block_room
  of them, take two rows of bytes.
* Values (num_blocks, n_kv_heads, block_size, row): position by position.

What a row has more than head_dim is zero.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["CACHE_DTYPES", "GROUP", "SCALED_GROUP", "block_bytes", "cache_row", "cache_shapes", "cache_width"]

CACHE_DTYPES: dict[str, type] = {"f16": np.uint16, "f32": np.float32, "q8_0": np.int8}  # by `kv_cache_dtype`

GROUP = 32  # elements that share a scale
SCALED_GROUP = GROUP + 2  # bytes with the scale


def cache_width(head_dim: int, dtype: type) -> int:
    """Elements that a head takes: whole vectors of 8, or whole groups."""
    unit = GROUP if dtype == np.int8 else 8
    return -(-head_dim // unit) * unit


def cache_row(head_dim: int, dtype: type) -> int:
    """Entries of the array that a head takes: its elements, and their scales."""
    width = cache_width(head_dim, dtype)
    return width // GROUP * SCALED_GROUP if dtype == np.int8 else width


def cache_shapes(
    num_blocks: int, n_kv_heads: int, block_size: int, head_dim: int, dtype: type
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a layer's keys and values."""
    row, block_room = cache_row(head_dim, dtype), -(-block_size // 16) * 16
    return (num_blocks, n_kv_heads, row, block_room), (num_blocks, n_kv_heads, block_size, row)


def block_bytes(n_kv_heads: int, block_size: int, head_dim: int, dtype: type) -> int:
    """Bytes of a layer's keys and values in one block."""
    shapes = cache_shapes(1, n_kv_heads, block_size, head_dim, dtype)
    return sum(map(math.prod, shapes)) * np.dtype(dtype).itemsize
