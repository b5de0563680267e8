"""The search of `search` for formats whose integers are indices into a table of unevenly spaced values.

The nearest value is found by comparing with the middles between neighbours: it is the first one plus the steps to the
next for each middle that is exceeded.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined, kernel
from ..formats.iq4_nl import VALUES
from ..simd import as_f32, as_i32, f32x8, fma, i32x8, load_f32, load_f32x8, maximum, store_i8x8, sum_f32x8
from .packing import around
from .search import (
    LANES,
    NUM_REFINEMENTS,
    TINY,
    extreme_of,
    less,
    nonzero,
    select,
    store_lanes,
    transpose_groups,
)

_LOWEST = np.float32(VALUES[0])
_STEPS = np.diff(VALUES.astype(np.float32))  # (15,)
_MIDDLES = VALUES[:-1] + _STEPS / 2  # (15,)
_NUM_STEPS = len(_STEPS)
TABLE_LEVELS = around(float(_LOWEST), 14.0, 2.0)


@inlined
def nearest_value(v):
    """The value of the table that is nearest to each lane."""
    value = f32x8(_LOWEST)
    for k in range(_NUM_STEPS):
        exceeded = less(f32x8(load_f32(_MIDDLES, k)), v)
        value = value + as_f32(as_i32(f32x8(load_f32(_STEPS, k))) & exceeded)
    return value


@inlined
def nearest_index(v):
    """The index of that value, as i32x8."""
    index = i32x8(0)
    for k in range(_NUM_STEPS):
        index = index - less(f32x8(load_f32(_MIDDLES, k)), v)
    return index


@kernel
def fit_table_scales(x, w, levels, scales):
    """scales (n_groups,) float32 for x (n_groups, size) with weights w; `levels` as of `search.fit_scales`."""
    n_groups, size = x.shape
    xs, ws = np.empty(size * LANES, np.float32), np.empty(size * LANES, np.float32)
    for first in range(0, n_groups, LANES):
        transpose_groups(x, first, xs)
        transpose_groups(w, first, ws)
        extreme = nonzero(extreme_of(xs, size))
        best_gain, best = f32x8(0.0), f32x8(0.0)
        for trial in range(levels.size + NUM_REFINEMENTS):
            if trial < levels.size:
                inverse = f32x8(levels[trial]) / extreme
            else:
                inverse = f32x8(1.0) / nonzero(best)
            products, squares = f32x8(0.0), f32x8(0.0)
            for j in range(size):
                v = load_f32x8(xs, j * LANES)
                value = nearest_value(v * inverse)
                weighted = load_f32x8(ws, j * LANES) * value
                products, squares = fma(weighted, v, products), fma(weighted, value, squares)
            scale = products / maximum(squares, f32x8(TINY))
            gain = products * scale
            better = less(best_gain, gain)
            best_gain, best = select(better, gain, best_gain), select(better, scale, best)
        store_lanes(best, scales, first)


@kernel
def round_to_table(x, scales, q):
    """The nearest indices q (n_groups, size) int8; returns the sum of squares of what x then is off.

    x : (n_groups, size) float32, size a multiple of 8; scales : (n_groups,) float32, as they will be read back
    """
    n_groups, size = x.shape
    error = 0.0
    for group in range(n_groups):
        scale = scales[group]
        inverse = np.float32(1) / scale if np.abs(scale) > TINY else np.float32(0)
        squares = f32x8(0.0)
        for j in range(group * size, group * size + size, 8):
            v = load_f32x8(x, j)
            store_i8x8(q, j, nearest_index(v * inverse))
            rest = v - nearest_value(v * inverse) * scale
            squares = fma(rest, rest, squares)
        error += np.float64(sum_f32x8(squares))
    return error
