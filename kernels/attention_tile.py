"""Attention of rows of queries over tiles of positions: a small product, a softmax, a small product.

A *row* is a query of one token and head. Its *state* is `state_width` float32: the weighted sum of values o, padded to
a multiple of 16, then the maximum m of the scores, the sum l of the weights, and 6 unused. Each element of a result is
computed in one order, whichever rows are beside it: a score is a chain of `fma` over k ascending; o a chain of `fma`
over positions ascending, that begins with the old o times 2^(old m - new m).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cache import inlined
from .exp import exp2_f32x8
from .kv_cache import find_places, load8
from .simd import (
    f32x8,
    fma,
    fma_f32,
    load_f32,
    load_f32x8,
    max_f32x8,
    maximum,
    prefetch,
    store_f32,
    store_f32x8,
    sum_f32x8,
)
from .simd_transpose import COLUMNS, POSITIONS, transpose

TILE = 32  # positions
ROWS = 4  # that a small product computes at once
KEEP, SUM = ROWS * TILE, ROWS * TILE + 8  # places in Buffers.scores
assert TILE % POSITIONS == 0


class Buffers(NamedTuple):
    """What one task works with."""

    q: np.ndarray  # (num_rows + ROWS - 1, width) queries times the scale, zeros behind head_dim
    keys: np.ndarray  # (width, TILE) the tile's keys, transposed, in the cache's type
    values: np.ndarray  # (TILE, width rounded up to 16) the tile's values, zeros behind them
    places: np.ndarray  # (2, TILE) int64, where in the cache the positions of this tile and the next lie
    ahead: np.ndarray  # (3,) int64, places of the next tile: the first not asked for, how many at once, the end
    scores: np.ndarray  # (ROWS, TILE) scores, then weights; behind them 8 for `keep` and 8 for sums, by row
    states: np.ndarray  # (num_rows + ROWS - 1, state_width)


def state_width(width: int) -> int:
    """float32 in the state of a row whose values take `width` in the cache."""
    return (width + 15) // 16 * 16 + 8


state_size = inlined(state_width)


@inlined
def fetch_ahead(buffers, k_cache, v_cache):
    """Ask for some positions of the next tile: hardware does not foresee where it lies.

    Called between short stretches of work, so that memory always has something to do, and never more than it can queue.
    """
    ahead = buffers.ahead
    last = min(ahead[0] + ahead[1], ahead[2])
    for p in range(ahead[0], last):
        place = buffers.places[p]
        for d in range(0, k_cache.shape[3], 64 // k_cache.itemsize):  # a line of cache has 64 bytes
            prefetch(k_cache, place + d)
            prefetch(v_cache, place + d)
    ahead[0] = last


@inlined
def positions_ahead(num_rows, width):
    """How many positions each call of `fetch_ahead` should ask for, to be through when the tile is."""
    in_products = (num_rows + ROWS - 1) // ROWS * (TILE // POSITIONS + (width + 15) // 16)
    return TILE // (TILE // POSITIONS + TILE // 8 + in_products) + 1


@inlined
def load_tile(buffers, k_cache, v_cache, here, count):
    """Convert the tile at places[here]: all keys, which may be garbage from `count` on, and `count` values."""
    width, places = k_cache.shape[3], buffers.places
    for p in range(0, TILE, POSITIONS):
        fetch_ahead(buffers, k_cache, v_cache)
        for k in range(0, width, COLUMNS):
            transpose(k_cache, places, here + p, k, buffers.keys, k * TILE + p, TILE)
    stride = state_size(width) - 8
    for p in range(count):
        if p % 8 == 0:
            fetch_ahead(buffers, k_cache, v_cache)
        place = places[here + p]
        for d in range(0, width, 8):
            store_f32x8(buffers.values, p * stride + d, load8(v_cache, place + d))


@inlined
def store_pair(array, offset, a, b):
    """Write two vectors side by side."""
    store_f32x8(array, offset, a)
    store_f32x8(array, offset + 8, b)


@inlined
def score_rows(buffers, row, p, width):
    """Scores of rows `row` to `row` + 3 at 16 positions of the tile, from `p` on."""
    q, keys, scores = buffers.q, buffers.keys, buffers.scores
    q0 = row * width
    q1, q2, q3 = q0 + width, q0 + 2 * width, q0 + 3 * width
    a0 = b0 = a1 = b1 = a2 = b2 = a3 = b3 = f32x8(0.0)
    for k in range(width):
        a, b = load8(keys, k * TILE + p), load8(keys, k * TILE + p + 8)
        x0, x1 = f32x8(load_f32(q, q0 + k)), f32x8(load_f32(q, q1 + k))
        a0, b0, a1, b1 = fma(x0, a, a0), fma(x0, b, b0), fma(x1, a, a1), fma(x1, b, b1)
        x2, x3 = f32x8(load_f32(q, q2 + k)), f32x8(load_f32(q, q3 + k))
        a2, b2, a3, b3 = fma(x2, a, a2), fma(x2, b, b2), fma(x3, a, a3), fma(x3, b, b3)
    store_pair(scores, p, a0, b0)
    store_pair(scores, TILE + p, a1, b1)
    store_pair(scores, 2 * TILE + p, a2, b2)
    store_pair(scores, 3 * TILE + p, a3, b3)


@inlined
def weigh(scores, row, length, states, end):
    """Turn the scores of a row into weights 2^(score - m); bring m, at states[end], up to date.

    What m has changed by and the sum of the weights go behind the scores.
    """
    first = row * TILE
    for p in range(length, TILE):
        store_f32(scores, first + p, -np.inf)  # comes out as 2^-126, which vanishes in l beside the maximum's 1
    largest = load_f32x8(scores, first)
    for p in range(8, TILE, 8):
        largest = maximum(largest, load_f32x8(scores, first + p))
    old_m = load_f32(states, end)
    m = max(old_m, max_f32x8(largest))
    total = f32x8(0.0)
    for p in range(0, TILE, 8):
        weight = exp2_f32x8(load_f32x8(scores, first + p) - m)
        store_f32x8(scores, first + p, weight)
        total += weight
    store_f32(scores, KEEP + row, old_m - m)
    store_f32(scores, SUM + row, sum_f32x8(total))
    store_f32(states, end, m)


@inlined
def add_values(buffers, length, d, row, num_rows, size):
    """o = o * keep + weights times values, for 16 elements from `d` on of up to 4 rows."""
    values, scores, states = buffers.values, buffers.scores, buffers.states
    s0 = row * size + d
    s1, s2, s3 = s0 + size, s0 + 2 * size, s0 + 3 * size
    k0, k1 = load_f32(scores, KEEP), load_f32(scores, KEEP + 1)
    k2, k3 = load_f32(scores, KEEP + 2), load_f32(scores, KEEP + 3)
    a0, b0 = load_f32x8(states, s0) * k0, load_f32x8(states, s0 + 8) * k0
    a1, b1 = load_f32x8(states, s1) * k1, load_f32x8(states, s1 + 8) * k1
    a2, b2 = load_f32x8(states, s2) * k2, load_f32x8(states, s2 + 8) * k2
    a3, b3 = load_f32x8(states, s3) * k3, load_f32x8(states, s3 + 8) * k3
    place = d
    for p in range(length):
        a, b = load_f32x8(values, place), load_f32x8(values, place + 8)
        w0, w1 = f32x8(load_f32(scores, p)), f32x8(load_f32(scores, TILE + p))
        a0, b0, a1, b1 = fma(w0, a, a0), fma(w0, b, b0), fma(w1, a, a1), fma(w1, b, b1)
        w2, w3 = f32x8(load_f32(scores, 2 * TILE + p)), f32x8(load_f32(scores, 3 * TILE + p))
        a2, b2, a3, b3 = fma(w2, a, a2), fma(w2, b, b2), fma(w3, a, a3), fma(w3, b, b3)
        place += size - 8
    store_pair(states, s0, a0, b0)
    if num_rows > 1:
        store_pair(states, s1, a1, b1)
    if num_rows > 2:
        store_pair(states, s2, a2, b2)
    if num_rows > 3:
        store_pair(states, s3, a3, b3)


@inlined
def keep_old(buffers, row, num_rows, size):
    """What each row's old sums are multiplied by; bring l up to date with it."""
    scores, states = buffers.scores, buffers.states
    store_f32x8(scores, KEEP, exp2_f32x8(load_f32x8(scores, KEEP)))
    for r in range(num_rows):
        place = (row + r + 1) * size - 7
        store_f32(
            states, place, fma_f32(load_f32(states, place), load_f32(scores, KEEP + r), load_f32(scores, SUM + r))
        )


@inlined
def attend_rows(buffers, k_cache, v_cache, length, row, num_rows):
    """Rows `row` to `row` + `num_rows` (up to 4) over the first `length` positions of the tile."""
    width = k_cache.shape[3]
    size = state_size(width)
    for p in range(0, length, POSITIONS):
        fetch_ahead(buffers, k_cache, v_cache)
        score_rows(buffers, row, p, width)
    for r in range(num_rows):
        weigh(buffers.scores, r, length, buffers.states, (row + r + 1) * size - 8)
    keep_old(buffers, row, num_rows, size)
    for d in range(0, width, 16):
        fetch_ahead(buffers, k_cache, v_cache)
        add_values(buffers, length, d, row, num_rows, size)


@inlined
def attend_chunk(buffers, k_cache, v_cache, block_tables, sequence, kv_head, start, end, group, positions):
    """All rows of a run of tokens over positions `start` to `end` (excluded); token t has rows t * group onwards.

    Positions behind a token's own may hold another token's NaN, so the tile in which a token lies is cut there, token
    by token; tokens behind the tile take it whole.
    """
    num_tokens, last = positions.size, positions[-1]
    places, ahead, here = buffers.places, buffers.ahead, 0
    find_places(k_cache, block_tables, sequence, kv_head, start, last, places, 0)
    token = 0
    for tile in range(start, min(end, last + 1), TILE):
        while positions[token] < tile:
            token += 1
        find_places(k_cache, block_tables, sequence, kv_head, min(tile + TILE, last), last, places, TILE - here)
        ahead[0], ahead[2] = TILE - here, 2 * TILE - here
        ahead[1] = positions_ahead((num_tokens - token) * group, k_cache.shape[3])
        load_tile(buffers, k_cache, v_cache, here, min(TILE, last + 1 - tile))
        first = token
        while first < num_tokens:
            length = min(TILE, positions[first] + 1 - tile)
            behind = num_tokens if length == TILE else first + 1
            for row in range(first * group, behind * group, ROWS):
                attend_rows(buffers, k_cache, v_cache, length, row, min(ROWS, behind * group - row))
            first = behind
        here = TILE - here
