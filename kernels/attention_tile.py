"""Attention of rows of queries over one tile of positions: a small product, a softmax, a small product.

A *row* is a query of one token and head. Its *state* is `state_width` float32: the weighted sum of values o, padded to
a multiple of 16, then the maximum m of the scores, the sum l of the weights,
what the last tile left of the old (`keep`), and 5 unused. Each element of a result is
computed in one order, whichever rows are beside it: a score is a chain of `fma` over k ascending; o a chain of `fma`
over positions ascending, that begins with the old o times exp(old m - new m).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cache import inlined
from .exp import exp_f32, exp_f32x8
from .kv_cache import load8
from .simd import (
    f32x8,
    fma,
    fma_f32,
    load_f32,
    load_f32x8,
    max_f32x8,
    maximum,
    store_f32,
    store_f32x8,
    sum_f32x8,
)
from .simd_transpose import COLUMNS, POSITIONS, transpose

TILE = 32  # positions
ROWS = 4  # that a small product computes at once
assert TILE % POSITIONS == 0


class Buffers(NamedTuple):
    """What one task works with."""

    q: np.ndarray  # (num_rows + ROWS - 1, width) queries times the scale, zeros behind head_dim
    keys: np.ndarray  # (width, TILE) the tile's keys, transposed, in the cache's type
    values: np.ndarray  # (TILE, width rounded up to 16) the tile's values, zeros behind them
    places: np.ndarray  # (2, TILE) int64, where in the cache the positions of this tile and the next lie
    scores: np.ndarray  # (ROWS, TILE) scores, then weights
    states: np.ndarray  # (num_rows + ROWS - 1, state_width)


def state_width(width: int) -> int:
    """float32 in the state of a row whose values take `width` in the cache."""
    return (width + 15) // 16 * 16 + 8


state_size = inlined(state_width)


@inlined
def load_tile(buffers, k_cache, v_cache, count):
    """Convert the tile at buffers.places: all keys, which may be garbage from `count` on, and `count` values."""
    width, places = k_cache.shape[3], buffers.places
    for p in range(0, TILE, POSITIONS):
        for k in range(0, width, COLUMNS):
            transpose(k_cache, places, p, k, buffers.keys, k * TILE + p, TILE)
    line = state_size(width) - 8
    for p in range(count):
        for d in range(0, width, 8):
            store_f32x8(buffers.values, p * line + d, load8(v_cache, places[p] + d))


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
def weigh(scores, first, length, states, end):
    """Turn the scores of a row into weights exp(score - m); bring m, l and keep, at states[end], up to date."""
    for p in range(length, TILE):
        store_f32(scores, first + p, -np.inf)  # comes out as exp(-87), which vanishes in l beside the maximum's 1
    largest = load_f32x8(scores, first)
    for p in range(8, TILE, 8):
        largest = maximum(largest, load_f32x8(scores, first + p))
    old_m = load_f32(states, end)
    m = max(old_m, max_f32x8(largest))
    total = f32x8(0.0)
    for p in range(0, TILE, 8):
        weight = exp_f32x8(load_f32x8(scores, first + p) - m)
        store_f32x8(scores, first + p, weight)
        total += weight
    keep = exp_f32(old_m - m)
    store_f32(states, end, m)
    store_f32(states, end + 1, fma_f32(load_f32(states, end + 1), keep, sum_f32x8(total)))
    store_f32(states, end + 2, keep)


@inlined
def kept(states, row, d, size):
    """Two vectors of a row's o, times its keep."""
    place = row * size
    keep = load_f32(states, place + size - 6)
    return load_f32x8(states, place + d) * keep, load_f32x8(states, place + d + 8) * keep


@inlined
def add_values(buffers, length, d, row, num_rows, size):
    """o = o * keep + weights times values, for 16 elements from `d` on of up to 4 rows."""
    values, scores, states = buffers.values, buffers.scores, buffers.states
    a0, b0 = kept(states, row, d, size)
    a1, b1 = kept(states, row + 1, d, size)
    a2, b2 = kept(states, row + 2, d, size)
    a3, b3 = kept(states, row + 3, d, size)
    place = d
    for p in range(length):
        a, b = load_f32x8(values, place), load_f32x8(values, place + 8)
        w0, w1 = f32x8(load_f32(scores, p)), f32x8(load_f32(scores, TILE + p))
        a0, b0, a1, b1 = fma(w0, a, a0), fma(w0, b, b0), fma(w1, a, a1), fma(w1, b, b1)
        w2, w3 = f32x8(load_f32(scores, 2 * TILE + p)), f32x8(load_f32(scores, 3 * TILE + p))
        a2, b2, a3, b3 = fma(w2, a, a2), fma(w2, b, b2), fma(w3, a, a3), fma(w3, b, b3)
        place += size - 8
    place = row * size + d
    store_pair(states, place, a0, b0)
    if num_rows > 1:
        store_pair(states, place + size, a1, b1)
    if num_rows > 2:
        store_pair(states, place + 2 * size, a2, b2)
    if num_rows > 3:
        store_pair(states, place + 3 * size, a3, b3)


@inlined
def attend_rows(buffers, width, length, row, num_rows):
    """Rows `row` to `row` + `num_rows` (up to 4) over the first `length` positions of the tile."""
    size = state_size(width)
    for p in range(0, length, POSITIONS):
        score_rows(buffers, row, p, width)
    for r in range(num_rows):
        weigh(buffers.scores, r * TILE, length, buffers.states, (row + r + 1) * size - 8)
    for d in range(0, width, 16):
        add_values(buffers, length, d, row, num_rows, size)


@inlined
def attend_tile(buffers, width, start, group, positions):
    """All rows over the tile at position `start`; token t of the run has rows t * group to (t + 1) * group.

    Positions behind a token's own may hold another token's NaN, so the tile in which a token lies is cut there, token
    by token; tokens behind the tile take it whole.
    """
    num_tokens = positions.size
    token = 0
    while token < num_tokens and positions[token] < start:
        token += 1
    while token < num_tokens:
        length = min(TILE, positions[token] + 1 - start)
        last = num_tokens if length == TILE else token + 1
        for row in range(token * group, last * group, ROWS):
            attend_rows(buffers, width, length, row, min(ROWS, last * group - row))
        token = last
