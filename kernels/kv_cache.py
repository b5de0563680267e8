"""The paged KV cache of a layer: its layout, writing to it, and reading it back.

The cache is two arrays of uint16 holding float16, or of float32:

* keys (num_blocks, n_kv_heads, width, block_room): element by element, positions side by side, because that is what a
  vector of scores needs. `block_room` is block_size rounded up to a multiple of 16;
* values (num_blocks, n_kv_heads, block_size, width): position by position.

`width` is head_dim rounded up to a multiple of 8, padded with zeros (`cache_width`). A token's `slot` is
block * block_size + offset in the block; a sequence's `block_table` lists its blocks in order.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .cache import INLINED_OPTIONS, inlined
from .plan import row_operation
from .simd import f32x8, load_f32, load_f32x8, store_f16, store_f16x8, store_f32, store_f32x8, with_lane

__all__ = ["cache_shapes", "cache_width", "read_keys", "read_values", "store_kv", "store_kv_ref"]


def cache_width(head_dim: int) -> int:
    """Elements that a head takes in the cache: whole vectors of 8."""
    return -(-head_dim // 8) * 8


def cache_shapes(num_blocks: int, n_kv_heads: int, block_size: int, head_dim: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of a layer's keys and values."""
    width, block_room = cache_width(head_dim), -(-block_size // 16) * 16
    return (num_blocks, n_kv_heads, width, block_room), (num_blocks, n_kv_heads, block_size, width)


# ------------------------------------------------------------------------ float16 or float32, by the array's type


def store1(cache, offset, value):
    """Write a float32 to a cache, rounded to nearest."""
    raise NotImplementedError("compiled code only")


@overload(store1, jit_options=INLINED_OPTIONS)
def _store1(cache, offset, value):
    if cache.dtype == types.uint16:
        return lambda cache, offset, value: store_f16(cache, offset, value)
    return lambda cache, offset, value: store_f32(cache, offset, value)


def store8(cache, offset, value):
    """Write a f32x8 to a cache, rounded to nearest."""
    raise NotImplementedError("compiled code only")


@overload(store8, jit_options=INLINED_OPTIONS)
def _store8(cache, offset, value):
    if cache.dtype == types.uint16:
        return lambda cache, offset, value: store_f16x8(cache, offset, value)
    return lambda cache, offset, value: store_f32x8(cache, offset, value)


# ------------------------------------------------------------------------ writing


def store_kv_ref(k, v, slot_mapping, k_cache, v_cache) -> None:
    """Write k and v (num_tokens, n_kv_heads, head_dim) to the slots (num_tokens,) of a layer's cache."""
    if k_cache.dtype == np.uint16:
        k, v = (x.astype(np.float16).view(np.uint16) for x in (k, v))
    block_size, head_dim = v_cache.shape[2], v.shape[2]
    blocks, offsets = slot_mapping // block_size, slot_mapping % block_size
    k_cache[blocks, :, :head_dim, offsets] = k
    v_cache[blocks, :, offsets, :head_dim] = v


@inlined
def load_part(source, first, n):
    """Elements `first` to `first + n` of a float32 array, n < 8, as f32x8 with zeros behind them."""
    part = f32x8(0.0)
    for i in range(n):
        part = with_lane(part, i, load_f32(source, first + i))
    return part


@inlined
def store_key(source, first, head_dim, cache, place):
    """Copy `head_dim` elements into a column of keys."""
    for i in range(head_dim):
        store1(cache, place + i * cache.shape[3], load_f32(source, first + i))


@inlined
def store_value(source, first, head_dim, cache, place):
    """Copy `head_dim` elements into a row of values, zeros behind them."""
    whole = head_dim // 8 * 8
    for i in range(0, whole, 8):
        store8(cache, place + i, load_f32x8(source, first + i))
    if whole < head_dim:
        store8(cache, place + whole, load_part(source, first + whole, head_dim - whole))


@row_operation(twin=store_kv_ref)
def store_kv(k, v, slot_mapping, k_cache, v_cache, first_token, last_token):
    """Write k and v (num_tokens, n_kv_heads, head_dim) to the slots (num_tokens,) of a layer's cache."""
    n_kv_heads, head_dim = k.shape[1], k.shape[2]
    block_size, width, block_room = v_cache.shape[2], v_cache.shape[3], k_cache.shape[3]
    for token in range(first_token, last_token):
        block, offset = slot_mapping[token] // block_size, slot_mapping[token] % block_size
        for head in range(n_kv_heads):
            first = (token * n_kv_heads + head) * head_dim
            place = (block * n_kv_heads + head) * width
            store_key(k, first, head_dim, k_cache, place * block_room + offset)
            store_value(v, first, head_dim, v_cache, place * block_size + offset * width)


# ------------------------------------------------------------------------ reading


def read_keys(k_cache: np.ndarray, block_table: np.ndarray, length: int, head_dim: int, block_size: int) -> np.ndarray:
    """Keys of the first `length` positions of a sequence as float32 (length, n_kv_heads, head_dim)."""
    position = np.arange(length)
    return _as_float32(k_cache[block_table[position // block_size], :, :head_dim, position % block_size])


def read_values(v_cache: np.ndarray, block_table: np.ndarray, length: int, head_dim: int) -> np.ndarray:
    """The same of values."""
    position, block_size = np.arange(length), v_cache.shape[2]
    return _as_float32(v_cache[block_table[position // block_size], :, position % block_size, :head_dim])


def _as_float32(rows: np.ndarray) -> np.ndarray:
    return (rows.view(np.float16) if rows.dtype == np.uint16 else rows).astype(np.float32)
