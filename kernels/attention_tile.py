"""Attention of rows of queries over one chunk of positions: a small product, a softmax, a small product.

A *row* is a query of one token and head. Its *state* is `state_width` float32: the weighted sum of values o, then the
maximum m of the scores, the sum l of the weights, and 6 unused. Each element of a result is computed in one order,
whichever rows are beside it: a score is a chain of `fma` over k ascending; o a chain of `fma` over positions ascending.

Keys and values are taken by *pieces*: up to TILE positions of a block, of one KV head. With a window of w, a token at
position p sees positions p - w + 1 to p, and nothing before them is read.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .attention_products import multiply
from .cache import inlined
from .exp import exp2_f32x8, tanh_f32x8
from .kv_matrices import key_matrix, value_matrix, value_width
from .simd import f32x8, load_f32x8, max_f32x8, maximum, store_f32, store_f32x8, sum_f32x8
from .simd_products import matrix

CHUNK = 512  # positions that have a softmax of their own
TILE = 32  # positions whose keys and values stay in the nearest cache while all rows meet them
COLUMNS = 16  # positions whose scores are computed together
# A row of scores has room on both sides of the chunk's, for positions of blocks that lie across its ends.
BEFORE, SCORES = COLUMNS, COLUMNS + CHUNK + COLUMNS
assert CHUNK % TILE == 0
assert TILE % COLUMNS == 0


class Buffers(NamedTuple):
    """What one task works with. Rows are ordered by KV head, token, and head within the group."""

    q: np.ndarray  # (num_rows, head_dim) queries times the scale
    scores: np.ndarray  # (num_rows, SCORES) scores, then weights
    states: np.ndarray  # (num_rows, state_width)


class Context(NamedTuple):
    """Where the keys and values of one sequence lie, from KV head `kv_head` on."""

    k_cache: np.ndarray
    v_cache: np.ndarray
    block_tables: np.ndarray
    sequence: int
    kv_head: int
    num_heads: int
    window: int  # positions that a token sees, itself included; 0 is all
    cap: np.float32  # bound of scores, in powers of two; 0 is none


def state_width(width: int) -> int:
    """float32 in the state of a row whose values take `width` in the cache."""
    return width + 8


state_size = inlined(state_width)


# ------------------------------------------------------------------------ pieces


@inlined
def piece_end(context, position, last):
    """Behind the positions from `position` to `last` (excluded) that are in one piece."""
    offset = position % context.v_cache.shape[2]
    return min(position - offset + min(context.v_cache.shape[2], (offset // TILE + 1) * TILE), last)


@inlined
def block_head(context, head, position):
    """Where, counted in heads of blocks, the keys and values of a head lie in the block of `position`."""
    block = context.block_tables[context.sequence, position // context.v_cache.shape[2]]
    return block * context.v_cache.shape[1] + context.kv_head + head


@inlined
def keys_at(context, head, position):
    """Keys as a matrix (head_dim, positions) that begins with the vector in which `position` lies."""
    cache = context.k_cache
    start = block_head(context, head, position) * cache.shape[2] * cache.shape[3]
    return key_matrix(cache, start, position % context.v_cache.shape[2] // COLUMNS * COLUMNS)


@inlined
def values_at(context, head, position):
    """Values as a matrix (positions, head_dim) that begins with `position`."""
    cache, block_size = context.v_cache, context.v_cache.shape[2]
    row = block_head(context, head, position) * block_size + position % block_size
    return value_matrix(cache, row * cache.shape[3])


@inlined
def near_keys(context, head, position):
    """Where `keys_at` begins, in matrices of one type with `near_values`: to be asked for ahead of time."""
    cache = context.k_cache
    start = block_head(context, head, position) * cache.shape[2] * cache.shape[3]
    return matrix(cache, start + position % context.v_cache.shape[2] // COLUMNS * COLUMNS, cache.shape[3])


@inlined
def near_values(context, head, position):
    """Where `values_at` begins."""
    cache, block_size = context.v_cache, context.v_cache.shape[2]
    row = block_head(context, head, position) * block_size + position % block_size
    return matrix(cache, row * cache.shape[3], cache.shape[3])


# ------------------------------------------------------------------------ one chunk


@inlined
def first_seen(position, window):
    """First position that a token sees."""
    return max(position - window + 1, 0) if window > 0 else 0


@inlined
def end_of_seeing(context, positions, first, position):
    """Behind the tokens from `first` on that see `position`, if it is not behind them."""
    if context.window == 0:
        return positions.size
    while first < positions.size and first_seen(positions[first], context.window) <= position:
        first += 1
    return first


@inlined
def score_chunk(buffers, context, start, begin, end, group, positions):
    """Scores of all rows at positions `begin` to `end`; those that a row does not see may be garbage."""
    num_tokens, head_dim = positions.size, buffers.q.size // (buffers.scores.size // SCORES)
    token, position = 0, begin
    while position < end:
        while positions[token] < position:
            token += 1
        behind = piece_end(context, position, end)
        before = position % context.v_cache.shape[2] % COLUMNS  # positions in the first vector that are not wanted
        columns = (before + behind - position + COLUMNS - 1) // COLUMNS * COLUMNS
        last_token = end_of_seeing(context, positions, token, behind - 1)
        for head in range(context.num_heads):
            if behind < end:
                ahead = near_keys(context, head, behind)
            else:
                ahead = near_values(context, head, begin)
            row = (head * num_tokens + token) * group
            rows, place = (last_token - token) * group, row * SCORES + BEFORE + position - start - before
            clear(buffers.scores, place, rows, columns)
            q, scores = matrix(buffers.q, row * head_dim, head_dim), matrix(buffers.scores, place, SCORES)
            multiply(q, keys_at(context, head, position), ahead, head_dim, scores, rows, columns)
        position = behind


@inlined
def clear(scores, first, rows, columns):
    """Zeros in some columns, a multiple of 8, of some rows."""
    for row in range(rows):
        for p in range(0, columns, 8):
            store_f32x8(scores, first + row * SCORES + p, f32x8(0.0))


@inlined
def cap_scores(scores, first, length, cap):
    """score = cap tanh(score), of a row's scores from `first` on; to the next multiple of 8."""
    for p in range(0, length, 8):
        store_f32x8(scores, first + p, tanh_f32x8(load_f32x8(scores, first + p)) * cap)


@inlined
def weigh(scores, first, hidden, length, states, end):
    """Turn a row's scores into weights 2^(score - m), and leave m and the sum of the weights in its state.

    Of the `length` scores from `first` on the first `hidden`, fewer than 8, do not count.
    """
    for p in range(hidden):
        store_f32(scores, first + p, -np.inf)  # comes out as 2^-126, which vanishes in l beside the maximum's 1
    for p in range(length, (length + 7) // 8 * 8):
        store_f32(scores, first + p, -np.inf)
    largest = f32x8(-np.inf)
    for p in range(0, length, 8):
        largest = maximum(largest, load_f32x8(scores, first + p))
    m = max_f32x8(largest)
    total = f32x8(0.0)
    for p in range(0, length, 8):
        weight = exp2_f32x8(load_f32x8(scores, first + p) - m)
        store_f32x8(scores, first + p, weight)
        total += weight
    store_f32(states, end, m)
    store_f32(states, end + 1, sum_f32x8(total))


@inlined
def weigh_chunk(buffers, context, num_rows, start, group, positions, size):
    """Weights of all rows."""
    for row in range(num_rows):
        position = positions[row // group % positions.size]
        end = min(CHUNK, position + 1 - start)
        begin = max(first_seen(position, context.window) - start, 0)
        if begin < end:
            aligned = begin // 8 * 8  # which element goes to which lane is decided by positions alone
            first, length = row * SCORES + BEFORE + aligned, end - aligned
            if context.cap > 0:
                cap_scores(buffers.scores, first, length, context.cap)
            weigh(buffers.scores, first, begin - aligned, length, buffers.states, (row + 1) * size - 8)


@inlined
def add_chunk(buffers, context, start, begin, end, group, positions):
    """Weights times values, for all rows.

    Positions that a token does not see may hold another token's NaN, so values are added token by token where the
    tokens lie and where their windows begin; tokens that see all of a piece take it whole.
    """
    num_tokens, width = positions.size, value_width(context.v_cache)
    size = state_size(width)
    token, position = 0, begin
    while position < end:
        while positions[token] < position:
            token += 1
        behind = piece_end(context, position, end)
        last_token = end_of_seeing(context, positions, token, behind - 1)
        for head in range(context.num_heads):
            if behind < end:
                ahead = near_values(context, head, behind)
            else:
                ahead = near_keys(context, head, min(end, positions[-1]))
            first = token
            while first < last_token:
                seen = max(position, first_seen(positions[first], context.window))
                last, tokens = min(behind, positions[first] + 1), 1
                if seen == position and last == behind:
                    tokens = end_of_seeing(context, positions, first, position) - first
                row = (head * num_tokens + first) * group
                weights = matrix(buffers.scores, row * SCORES + BEFORE + seen - start, SCORES)
                sums, values = matrix(buffers.states, row * size, size), values_at(context, head, seen)
                multiply(weights, values, ahead, last - seen, sums, tokens * group, width)
                first += tokens
        position = behind


@inlined
def attend_chunk(buffers, context, start, group, positions):
    """All rows of a run of tokens over the chunk that begins at `start`."""
    begin, end = max(start, first_seen(positions[0], context.window)), min(start + CHUNK, positions[-1] + 1)
    num_rows, width = buffers.scores.size // SCORES, value_width(context.v_cache)
    num_rows = min(num_rows, context.num_heads * positions.size * group)
    score_chunk(buffers, context, start, begin, end, group, positions)
    weigh_chunk(buffers, context, num_rows, start, group, positions, state_size(width))
    add_chunk(buffers, context, start, begin, end, group, positions)
