"""The paged KV cache of a layer: writing to it, and reading it back.

`kv_layout` tells how it lies in memory: as float16 (in uint16), float32, or Q8_0 (in int8; see `kv_cache_q8`). A
token's `slot` is block * block_size + offset in the block; a sequence's `block_table` lists its blocks in order.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .cache import INLINED_OPTIONS, inlined
from .kv_cache_q8 import (
    dequantize_heads_ref,
    key_scales,
    quantize_heads_ref,
    store_key_q8,
    store_value_q8,
    value_scales,
)
from .kv_layout import cache_width
from .plan import row_operation
from .simd import f32x8, load_f32, load_f32x8, store_f16, store_f16x8, store_f32, store_f32x8, with_lane

__all__ = ["read_keys", "read_values", "store_kv", "store_kv_ref"]


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
    block_size, head_dim = v_cache.shape[2], v.shape[2]
    blocks, offsets = slot_mapping // block_size, slot_mapping % block_size
    if k_cache.dtype == np.int8:
        codes, scales = quantize_heads_ref(k)
        k_cache[blocks, :, : codes.shape[2], offsets] = codes
        key_scales(k_cache)[blocks, :, :, offsets] = scales
        codes, scales = quantize_heads_ref(v)
        v_cache[blocks, :, offsets, : codes.shape[2]] = codes
        value_scales(v_cache)[blocks, :, offsets] = scales
        return
    if k_cache.dtype == np.uint16:
        k, v = (x.astype(np.float16).view(np.uint16) for x in (k, v))
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
def store_key_floats(source, first, head_dim, cache, start, offset):
    """Copy `head_dim` elements into column `offset` of the keys that begin at `start`."""
    for i in range(head_dim):
        store1(cache, start + i * cache.shape[3] + offset, load_f32(source, first + i))


@inlined
def store_value_floats(source, first, head_dim, cache, start):
    """Copy `head_dim` elements into the row of values that begins at `start`, zeros behind them."""
    whole = head_dim // 8 * 8
    for i in range(0, whole, 8):
        store8(cache, start + i, load_f32x8(source, first + i))
    if whole < head_dim:
        store8(cache, start + whole, load_part(source, first + whole, head_dim - whole))


def store_key(source, first, head_dim, cache, start, offset):
    """`store_key_floats` or `store_key_q8`, by the type of the cache."""
    raise NotImplementedError("compiled code only")


@overload(store_key, jit_options=INLINED_OPTIONS)
def _store_key(source, first, head_dim, cache, start, offset):
    store = store_key_q8 if cache.dtype == types.int8 else store_key_floats
    return lambda source, first, head_dim, cache, start, offset: store(source, first, head_dim, cache, start, offset)


def store_value(source, first, head_dim, cache, start):
    """`store_value_floats` or `store_value_q8`, by the type of the cache."""
    raise NotImplementedError("compiled code only")


@overload(store_value, jit_options=INLINED_OPTIONS)
def _store_value(source, first, head_dim, cache, start):
    store = store_value_q8 if cache.dtype == types.int8 else store_value_floats
    return lambda source, first, head_dim, cache, start: store(source, first, head_dim, cache, start)


@row_operation(twin=store_kv_ref)
def store_kv(k, v, slot_mapping, k_cache, v_cache, first_token, last_token):
    """Write k and v (num_tokens, n_kv_heads, head_dim) to the slots (num_tokens,) of a layer's cache."""
    n_kv_heads, head_dim, block_size = k.shape[1], k.shape[2], v_cache.shape[2]
    for token in range(first_token, last_token):
        block, offset = slot_mapping[token] // block_size, slot_mapping[token] % block_size
        for head in range(n_kv_heads):
            first = (token * n_kv_heads + head) * head_dim
            place = block * n_kv_heads + head
            store_key(k, first, head_dim, k_cache, place * k_cache.shape[2] * k_cache.shape[3], offset)
            store_value(v, first, head_dim, v_cache, (place * block_size + offset) * v_cache.shape[3])


# ------------------------------------------------------------------------ reading


def read_keys(k_cache: np.ndarray, block_table: np.ndarray, length: int, head_dim: int, block_size: int) -> np.ndarray:
    """Keys of the first `length` positions of a sequence as float32 (length, n_kv_heads, head_dim)."""
    position = np.arange(length)
    blocks, offsets = block_table[position // block_size], position % block_size
    if k_cache.dtype == np.int8:
        codes = k_cache[blocks, :, : cache_width(head_dim, np.int8), offsets]
        return dequantize_heads_ref(codes, key_scales(k_cache)[blocks, :, :, offsets], head_dim)
    return _as_float32(k_cache[blocks, :, :head_dim, offsets])


def read_values(v_cache: np.ndarray, block_table: np.ndarray, length: int, head_dim: int) -> np.ndarray:
    """The same of values."""
    position, block_size = np.arange(length), v_cache.shape[2]
    blocks, offsets = block_table[position // block_size], position % block_size
    if v_cache.dtype == np.int8:
        codes = v_cache[blocks, :, offsets, : cache_width(head_dim, np.int8)]
        return dequantize_heads_ref(codes, value_scales(v_cache)[blocks, :, offsets], head_dim)
    return _as_float32(v_cache[blocks, :, offsets, :head_dim])


def _as_float32(rows: np.ndarray) -> np.ndarray:
    return (rows.view(np.float16) if rows.dtype == np.uint16 else rows).astype(np.float32)
