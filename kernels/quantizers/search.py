"""Searching for the scale of a group of weights: what all quantizers share.

A group is a run of weights that share a scale s and, in some formats, an offset o. It is stored as integers q within
low..high, and read back as s q + o. Each search tries scales around the obvious one. For a scale the best q are
known: the nearest ones. For these q the best s and o are known, too, by weighted least squares; the smaller the
weighted square error

    sum of w (x - (s q + o))^2

they leave, the better the scale. The best one is then refined in turns: nearest q, best s and o for them, as in Lloyd's
algorithm (1982). The error needs no second pass: for the least squares solution it is sum of w x^2 less the gain
s sum(w q x) + o sum(w x), and the first term is the same for all.

Eight groups are searched side by side, a group in each lane of a vector, so that no sum crosses lanes.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined, kernel
from ..simd import (
    as_f32,
    as_i32,
    f32x8,
    fma,
    load_f32,
    load_f32x8,
    maximum,
    minimum,
    round_f32x8,
    store_f32,
    store_i8x8,
    sum_f32x8,
    to_i32x8,
)

LANES = 8
TINY = np.float32(1e-30)  # instead of 0 as a divisor, where the dividend is 0 as well
_DEGENERATE = np.float32(1e-6)  # of a determinant's first term: less than this is rounding
NUM_REFINEMENTS = 2


@inlined
def less(a, b):
    """A mask: all bits of a lane set where a < b. Neither may be NaN or infinite."""
    return as_i32(a - b) >> 31


@inlined
def select(mask, a, b):
    """Lanes of a where the mask is set, else of b."""
    return as_f32((as_i32(a) & mask) | (as_i32(b) & (mask ^ -1)))


@inlined
def nonzero(a):
    """a, with 1 in the place of lanes so small that a division by them would overflow."""
    return select(less(a * a, f32x8(TINY)), f32x8(1.0), a)


@inlined
def transpose_groups(x, first, out):
    """Rows `first` to `first` + 7 of x (n_groups, size) side by side into `out` (size * 8,).

    Beyond the last row that one is repeated.
    """
    n_groups, size = x.shape
    for lane in range(LANES):
        start = min(first + lane, n_groups - 1) * size
        for j in range(size):
            store_f32(out, j * LANES + lane, load_f32(x, start + j))


@inlined
def store_lanes(values, out, first):
    """Lanes of `values` to out[first : first + 8], as far as that goes."""
    for lane in range(min(LANES, out.size - first)):
        out[first + lane] = values[lane]


@inlined
def clip_round(v, low, high):
    """v rounded to nearest, within low..high."""
    return minimum(maximum(round_f32x8(v), f32x8(low)), f32x8(high))


@inlined
def extreme_of(xs, size):
    """The element of largest magnitude of each lane, with its sign."""
    high, low = f32x8(0.0), f32x8(0.0)
    for j in range(size):
        v = load_f32x8(xs, j * LANES)
        high, low = maximum(v, high), minimum(v, low)
    return select(less(high + low, f32x8(0.0)), low, high)


@kernel
def fit_scales(x, w, low, high, levels, scales):
    """For formats without offset: scales (n_groups,) float32 for x (n_groups, size) with weights w of the same shape.

    levels : float32; the element of largest magnitude is tried at each of these
    """
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
                q = clip_round(v * inverse, low, high)
                weighted = load_f32x8(ws, j * LANES) * q
                products, squares = fma(weighted, v, products), fma(weighted, q, squares)
            scale = products / maximum(squares, f32x8(TINY))
            gain = products * scale
            better = less(best_gain, gain)
            best_gain, best = select(better, gain, best_gain), select(better, scale, best)
        store_lanes(best, scales, first)


@inlined
def solve(sum_w, sum_x, sum_q, sum_qq, sum_qx, highest_offset):
    """Scale and offset that minimise sum w (x - (s q + o))^2, o at most `highest_offset`.

    The arguments are sums of w, w x, w q, w q^2 and w q x. If all q are equal, s is 0 and o the mean.
    """
    determinant = sum_w * sum_qq - sum_q * sum_q
    is_regular = less(sum_w * sum_qq * _DEGENERATE, determinant)
    offset = (sum_qq * sum_x - sum_q * sum_qx) / select(is_regular, determinant, f32x8(1.0))
    mean = sum_x / maximum(sum_w, f32x8(TINY))
    offset = minimum(select(is_regular, offset, mean), f32x8(highest_offset))
    return (sum_qx - offset * sum_q) / maximum(sum_qq, f32x8(TINY)), offset


@kernel
def fit_scales_and_offsets(x, w, high, levels, highest_offset, scales, offsets):
    """For formats with offset, q within 0..high: scales and offsets (n_groups,) float32.

    x, w : (n_groups, size) float32, weights and their importance
    levels : float32; the largest element is tried at each of these, the smallest at 0
    highest_offset : that the format can express; 0 or infinity
    """
    n_groups, size = x.shape
    xs, ws = np.empty(size * LANES, np.float32), np.empty(size * LANES, np.float32)
    for first in range(0, n_groups, LANES):
        transpose_groups(x, first, xs)
        transpose_groups(w, first, ws)
        highest, lowest = load_f32x8(xs, 0), load_f32x8(xs, 0)
        sum_w, sum_x = f32x8(0.0), f32x8(0.0)
        for j in range(size):
            v, weight = load_f32x8(xs, j * LANES), load_f32x8(ws, j * LANES)
            highest, lowest = maximum(v, highest), minimum(v, lowest)
            sum_w, sum_x = sum_w + weight, fma(weight, v, sum_x)
        lowest = minimum(lowest, f32x8(highest_offset))
        span = nonzero(highest - lowest)
        best_gain, best, best_offset = f32x8(-1.0), f32x8(0.0), lowest
        for trial in range(levels.size + NUM_REFINEMENTS):
            if trial < levels.size:
                inverse, base = f32x8(levels[trial]) / span, lowest
            else:
                inverse, base = f32x8(1.0) / nonzero(best), best_offset
            sum_q, sum_qq, sum_qx = f32x8(0.0), f32x8(0.0), f32x8(0.0)
            for j in range(size):
                v = load_f32x8(xs, j * LANES)
                q = clip_round((v - base) * inverse, np.float32(0), high)
                weighted = load_f32x8(ws, j * LANES) * q
                sum_q, sum_qq = sum_q + weighted, fma(weighted, q, sum_qq)
                sum_qx = fma(weighted, v, sum_qx)
            scale, offset = solve(sum_w, sum_x, sum_q, sum_qq, sum_qx, highest_offset)
            gain = fma(scale, sum_qx, offset * sum_x)
            better = less(best_gain, gain)
            best_gain = select(better, gain, best_gain)
            best, best_offset = select(better, scale, best), select(better, offset, best_offset)
        store_lanes(best, scales, first)
        store_lanes(best_offset, offsets, first)


@kernel
def round_groups(x, scales, offsets, low, high, q):
    """The nearest q (n_groups, size) int8 within low..high; returns the sum of squares of what x then is off.

    x : (n_groups, size) float32, size a multiple of 8
    scales, offsets : (n_groups,) float32, as they will be read back
    """
    n_groups, size = x.shape
    error = 0.0
    for group in range(n_groups):
        scale, offset = scales[group], offsets[group]
        inverse = np.float32(1) / scale if np.abs(scale) > TINY else np.float32(0)
        squares = f32x8(0.0)
        for j in range(group * size, group * size + size, 8):
            v = load_f32x8(x, j)
            levels = clip_round((v - offset) * inverse, low, high)
            store_i8x8(q, j, to_i32x8(levels))
            rest = v - (levels * scale + offset)
            squares = fma(rest, rest, squares)
        error += np.float64(sum_f32x8(squares))
    return error
