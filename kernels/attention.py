"""Causal attention over a paged KV cache, with grouped heads.

The cache of a layer is two arrays (num_blocks, n_kv_heads, block_size, width), keys and values: uint16 holding
float16, or float32. `width` is head_dim rounded up to a multiple of 8, padded with zeros (`cache_width`). A token's
`slot` is block * block_size + offset in the block; a sequence's `block_table` lists its blocks in order. Query head h
reads the keys of head h // (n_heads / n_kv_heads).

Softmax is computed tile by tile (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention"): each `TILE` positions
give a maximum m, a sum l and a weighted sum of values o, and tiles are merged in ascending order. The boundaries of
tiles are absolute positions, so a token's output has the same bits however prompts are cut into batches.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .cache import INLINED_OPTIONS, inlined
from .exp import exp_f32, exp_f32x8
from .plan import operation, piece, row_tasks
from .simd import (
    f32x8,
    fma,
    load_f16x8,
    load_f32x8,
    max_f32x8,
    maximum,
    store_f16x8,
    store_f32x8,
    sum_f32x8,
)

TILE = 32  # positions
assert TILE % 8 == 0


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
def store_row(source, first, head_dim, cache, place):
    """Copy `head_dim` elements into a cache's row, zeros behind them."""
    padded = np.zeros(8, np.float32)
    for i in range(0, head_dim // 8 * 8, 8):
        store8(cache, place + i, load_f32x8(source, first + i))
    if head_dim % 8:
        whole = head_dim // 8 * 8
        flat = source.reshape(-1)
        for i in range(whole, head_dim):
            padded[i - whole] = flat[first + i]
        store8(cache, place + whole, load_f32x8(padded, 0))


@operation(tasks=row_tasks, twin=store_kv_ref)
def store_kv(k, v, slot_mapping, k_cache, v_cache, task, num_tasks):
    """Write k and v (num_tokens, n_kv_heads, head_dim) to the slots (num_tokens,) of a layer's cache."""
    n_kv_heads, head_dim = k.shape[1], k.shape[2]
    block_size, width = k_cache.shape[2], k_cache.shape[3]
    first_token, last_token = piece(slot_mapping.size, task, num_tasks)
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


def attention_pattern_ref(q, k_cache, block_table, positions, scale) -> np.ndarray:
    """Softmax weights (n_heads, num_tokens, length) of one sequence's tokens over its positions 0 .. length - 1.

    q : (num_tokens, n_heads, head_dim); positions : (num_tokens,), the last one is length - 1
    """
    length = int(positions[-1]) + 1
    keys = read_cache(k_cache, block_table, length, q.shape[2])
    keys = np.repeat(keys, q.shape[1] // keys.shape[1], axis=1)  # (length, n_heads, head_dim)
    scores = np.einsum("thd,phd->htp", q, keys) * np.float32(scale)
    scores[:, np.arange(length) > positions[:, None]] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def attention_output_ref(pattern, v_cache, block_table, head_dim: int) -> np.ndarray:
    """Values (num_tokens, n_heads, head_dim) that a pattern (n_heads, num_tokens, length) picks."""
    values = read_cache(v_cache, block_table, pattern.shape[2], head_dim)
    values = np.repeat(values, pattern.shape[0] // values.shape[1], axis=1)
    return np.einsum("htp,phd->thd", pattern, values)


def attention_ref(q, k_cache, v_cache, block_tables, seq_index, positions, scale, out) -> None:
    """The twin of `attention`: sequence by sequence, with the whole matrix of weights."""
    for sequence in np.unique(seq_index):
        tokens = np.flatnonzero(seq_index == sequence)
        table = block_tables[sequence]
        pattern = attention_pattern_ref(q[tokens], k_cache, table, positions[tokens], scale)
        out[tokens] = attention_output_ref(pattern, v_cache, table, q.shape[2])


@inlined
def dot(a, cache, place, width):
    """Dot product of a padded query with the cache's row at `place`; element k goes to partial sum k mod 8."""
    acc = f32x8(0.0)
    for i in range(0, width, 8):
        acc = fma(load_f32x8(a, i), load8(cache, place + i), acc)
    return sum_f32x8(acc)


@inlined
def tile_weights(scores, num_positions):
    """Turn the scores of a tile into exp(score - maximum); return the maximum and the sum."""
    for p in range(num_positions, TILE):
        scores[p] = -np.inf  # comes out as exp(-87), which vanishes beside the maximum's 1
    largest = load_f32x8(scores, 0)
    for p in range(8, TILE, 8):
        largest = maximum(largest, load_f32x8(scores, p))
    m = max_f32x8(largest)
    total = f32x8(0.0)
    for p in range(0, TILE, 8):
        weight = exp_f32x8(load_f32x8(scores, p) - m)
        store_f32x8(scores, p, weight)
        total += weight
    return m, sum_f32x8(total)


@inlined
def attend(q, k_cache, v_cache, block_tables, sequence, position, scale, out, token, head):
    """One token's attention for one query head."""
    n_kv_heads, block_size, width = k_cache.shape[1], k_cache.shape[2], k_cache.shape[3]
    kv_head = head // (q.shape[1] // n_kv_heads)
    head_dim = q.shape[2]
    query, tile, acc = np.zeros(width, np.float32), np.empty(width, np.float32), np.zeros(width, np.float32)
    scores = np.empty(TILE, np.float32)
    for i in range(head_dim):
        query[i] = q[token, head, i]
    m, total = np.float32(-np.inf), np.float32(0)
    for start in range(0, position + 1, TILE):
        num_positions = min(TILE, position + 1 - start)
        for p in range(num_positions):
            block, offset = block_tables[sequence, (start + p) // block_size], (start + p) % block_size
            place = ((block * n_kv_heads + kv_head) * block_size + offset) * width
            scores[p] = dot(query, k_cache, place, width) * scale
        tile_m, tile_total = tile_weights(scores, num_positions)
        tile[:] = 0
        for p in range(num_positions):
            block, offset = block_tables[sequence, (start + p) // block_size], (start + p) % block_size
            place = ((block * n_kv_heads + kv_head) * block_size + offset) * width
            weight = f32x8(scores[p])
            for i in range(0, width, 8):
                store_f32x8(tile, i, fma(weight, load8(v_cache, place + i), load_f32x8(tile, i)))
        # Merge the tile: both sides are brought to the common maximum.
        new_m = max(m, tile_m)
        keep, take = exp_f32(m - new_m), exp_f32(tile_m - new_m)
        total = total * keep + tile_total * take
        for i in range(0, width, 8):
            store_f32x8(acc, i, load_f32x8(acc, i) * keep + load_f32x8(tile, i) * take)
        m = new_m
    for i in range(head_dim):
        out[token, head, i] = acc[i] / total


@operation(tasks=lambda q, *_: q.shape[0] * q.shape[1], twin=attention_ref)
def attention(q, k_cache, v_cache, block_tables, seq_index, positions, scale, out, task, num_tasks):
    """out (num_tokens, n_heads, head_dim): each token attends to its sequence's positions up to its own.

    q : (num_tokens, n_heads, head_dim) float32, after RoPE
    k_cache, v_cache : one layer's cache, in which the tokens' own keys and values are already stored
    block_tables : (num_seqs, max_blocks) int32; seq_index, positions : (num_tokens,) int32
    scale : float32, usually 1 / sqrt(head_dim)
    """
    token, head = task // q.shape[1], task % q.shape[1]
    attend(q, k_cache, v_cache, block_tables, seq_index[token], positions[token], scale, out, token, head)
