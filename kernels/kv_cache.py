"""The paged KV cache of a layer: its layout, writing to it, and reading it back.

The cache is two arrays (num_blocks, n_kv_heads, block_size, width), keys and values: uint16 holding float16, or
float32. `width` is head_dim rounded up to a multiple of 8, padded with zeros (`cache_width`). A token's `slot` is
block * block_size + offset in the block; a sequence's `block_table` lists its blocks in order.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .cache import INLINED_OPTIONS, inlined
from .plan import row_operation
from .simd import f32x8, load_f16x8, load_f32, load_f32x8, store_f16x8, store_f32x8, with_lane

__all__ = ["cache_width", "find_places", "load8", "read_cache", "store8", "store_kv", "store_kv_ref"]


def cache_width(head_dim: int) -> int:
    """Elements that a head takes in the cache: whole vectors of 8."""
    return -(-head_dim // 8) * 8


# ------------------------------------------------------------------------ float16 or float32, by the array's type


def load8(cache, offset):
    """Eight elements of a cache as f32x8."""
    raise NotImplementedError("compiled code only")


@overload(load8, jit_options=INLINED_OPTIONS)
def _load8(cache, offset):
    if cache.dtype == types.uint16:
        return lambda cache, offset: load_f16x8(cache, offset)
    return lambda cache, offset: load_f32x8(cache, offset)


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
    for source, cache in ((k, k_cache), (v, v_cache)):
        rows = source.astype(np.float16).view(np.uint16) if cache.dtype == np.uint16 else source
        block_size, head_dim = cache.shape[2], source.shape[2]
        cache[slot_mapping // block_size, :, slot_mapping % block_size, :head_dim] = rows


@inlined
def load_part(source, first, n):
    """Elements `first` to `first + n` of a float32 array, n < 8, as f32x8 with zeros behind them."""
    part = f32x8(0.0)
    for i in range(n):
        part = with_lane(part, i, load_f32(source, first + i))
    return part


@inlined
def store_row(source, first, head_dim, cache, place):
    """Copy `head_dim` elements into a cache's row, zeros behind them."""
    whole = head_dim // 8 * 8
    for i in range(0, whole, 8):
        store8(cache, place + i, load_f32x8(source, first + i))
    if whole < head_dim:
        store8(cache, place + whole, load_part(source, first + whole, head_dim - whole))


@row_operation(twin=store_kv_ref)
def store_kv(k, v, slot_mapping, k_cache, v_cache, first_token, last_token):
    """Write k and v (num_tokens, n_kv_heads, head_dim) to the slots (num_tokens,) of a layer's cache."""
    n_kv_heads, head_dim = k.shape[1], k.shape[2]
    block_size, width = k_cache.shape[2], k_cache.shape[3]
    for token in range(first_token, last_token):
        block, offset = slot_mapping[token] // block_size, slot_mapping[token] % block_size
        for head in range(n_kv_heads):
            first = (token * n_kv_heads + head) * head_dim
            place = ((block * n_kv_heads + head) * block_size + offset) * width
            store_row(k, first, head_dim, k_cache, place)
            store_row(v, first, head_dim, v_cache, place)


# ------------------------------------------------------------------------ reading


def read_cache(cache: np.ndarray, block_table: np.ndarray, length: int, head_dim: int) -> np.ndarray:
    """The first `length` positions of a sequence as float32 (length, n_kv_heads, head_dim)."""
    position = np.arange(length)
    block_size = cache.shape[2]
    rows = cache[block_table[position // block_size], :, position % block_size, :head_dim]
    return (rows.view(np.float16) if cache.dtype == np.uint16 else rows).astype(np.float32)


@inlined
def find_places(cache, block_tables, sequence, kv_head, start, last, places, first):
    """Set places[first + i] to the element of the cache where position min(start + i, last) begins."""
    n_kv_heads, block_size, width = cache.shape[1], cache.shape[2], cache.shape[3]
    index, offset = start // block_size, start % block_size
    row = (block_tables[sequence, index] * n_kv_heads + kv_head) * block_size
    for i in range(places.size // 2):
        places[first + i] = (row + offset) * width
        if start + i < last:
            offset += 1
            if offset == block_size:
                index, offset = index + 1, 0
                row = (block_tables[sequence, index] * n_kv_heads + kv_head) * block_size
