"""Products of panels with activations: the fast form of `matmul` for quantized weights, for any number of columns.

Lane = row, and exactly the arithmetic of the format's `vec_dot` in each lane: exact integer sums of a block, then
``acc = fma(dx, fma(d, S, -(dmin * M)), acc)`` or ``fma(dx, d * S, acc)``, blocks in ascending order. So results have the
bits of `vec_dot`, however many columns a tile has.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from .cache import INLINED_OPTIONS, inlined
from .panel import RUN, STRETCH, Panel
from .simd import (
    TILE_ROWS,
    as_floats,
    concat,
    each_column,
    each_row,
    fma_tile,
    i16x16,
    load_both,
    load_tile,
    madd_rows,
    outer_madd,
    prefetch,
    products,
    store,
    zero_i32,
)

COLUMNS = 256  # that pass by a panel before the next rows are unpacked


def multiply_panel(fmt, columns, panel, num_blocks, x, token, block, acc, place):
    """Compiled code only: add the products of `num_blocks` blocks of a panel with `columns` tokens to a tile of acc.

    token, block : the first token of x, and its block that belongs to the panel's first
    acc, place : float32 (..., TILE_ROWS), one column after the other from element `place`
    """


@overload(multiply_panel, jit_options=INLINED_OPTIONS, prefer_literal=True)
def _multiply_panel(fmt, columns, panel, num_blocks, x, token, block, acc, place):
    fmt, columns = fmt.format, columns.literal_value
    how, qk = fmt.unpacked, fmt.qk
    steps, scales, is_signed, has_minimum = how.steps, how.scales, how.is_signed, how.has_minimum
    writes_factors, factor = how.factor is None, how.factor or 0
    corrects = writes_factors or factor != 0
    num_runs, parts = qk // RUN, 8 // steps

    @inlined
    def block_sums(panel, b, x, k):
        """S and M of block b of the panel, times elements k of the flattened x and on."""
        n_in = x.q.shape[1]
        half = panel.q.size // 2
        total, correction = zero_i32(columns), zero_i32(columns)
        for run in range(num_runs):
            at = b * num_runs + run
            for i in range(parts):
                q, kx = 8 * (RUN * at + 4 * steps * i), k + RUN * run + 4 * steps * i
                sums = products(columns, steps, is_signed, panel.q, q, half, x.q, kx, n_in)
                if scales:
                    scale = load_both(panel.scales, 16 * (at * scales + i * scales // parts))
                    total += madd_rows(sums, scale)
                else:
                    total += madd_rows(sums, concat(i16x16(1), i16x16(1)))
            if writes_factors:
                factors = load_both(panel.factors, 16 * at)
                correction += outer_madd(columns, factors, x.sums, (k + RUN * run) // 16, n_in // 16)
            elif corrects:
                correction += outer_madd(columns, concat(i16x16(factor), i16x16(factor)), x.sums, (k + RUN * run) // 16, n_in // 16)
        return total, correction

    def multiply(fmt, columns, panel, num_blocks, x, token, block, acc, place):
        blocks_in = x.d.shape[1]
        result = load_tile(columns, acc, place)
        for b in range(num_blocks):
            column = token * blocks_in + block + b
            s, m = block_sums(panel, b, x, column * qk)
            d = each_row(columns, load_both(panel.d, 8 * b))
            dx = each_column(columns, x.d, column, blocks_in)
            if has_minimum:
                minimum = each_row(columns, load_both(panel.dmin, 8 * b)) * as_floats(m)
                result = fma_tile(dx, fma_tile(d, as_floats(s), -minimum), result)
            else:
                result = fma_tile(dx, d * as_floats(s - m), result)
        store(acc, place, result)

    return multiply


@inlined
def make_panel(qk, scales):
    """Buffers for blocks of `qk` elements."""
    runs = STRETCH // RUN
    return Panel(
        np.empty(TILE_ROWS * STRETCH, np.uint8),
        np.empty(2 * TILE_ROWS * runs * max(scales, 1), np.int16),
        np.empty(2 * TILE_ROWS * runs, np.int16),
        np.empty(TILE_ROWS * (STRETCH // qk), np.float32),
        np.empty(TILE_ROWS * (STRETCH // qk), np.float32),
    )


def unpack_panel(fmt, w, start, row_bytes, num_blocks, ahead, panel):
    """Compiled code only: fill a panel with `num_blocks` blocks of the rows whose first block begins at byte `start`.

    ahead : where the bytes lie that are read next, and are prefetched now
    """


@overload(unpack_panel, jit_options=INLINED_OPTIONS)
def _unpack_panel(fmt, w, start, row_bytes, num_blocks, ahead, panel):
    unpack, type_size = fmt.format.unpacked.unpack, fmt.format.type_size

    def fill(fmt, w, start, row_bytes, num_blocks, ahead, panel):
        for half in range(2):
            for b in range(num_blocks):
                for line in range(0, 8 * type_size, 64):
                    prefetch(w, ahead + line)
                ahead += 8 * type_size
                unpack(w, start + 8 * half * row_bytes + b * type_size, row_bytes, panel, half, b)

    return fill


@inlined
def multiply_columns(fmt, panel, num_blocks, x, token, last, block, acc):
    """Tokens `token` to `last` of x: four at a time, then two, then one."""
    place = 0
    while last - token >= 4:
        multiply_panel(fmt, 4, panel, num_blocks, x, token, block, acc, place)
        token, place = token + 4, place + 4 * TILE_ROWS
    if last - token >= 2:
        multiply_panel(fmt, 2, panel, num_blocks, x, token, block, acc, place)
        token, place = token + 2, place + 2 * TILE_ROWS
    if token < last:
        multiply_panel(fmt, 1, panel, num_blocks, x, token, block, acc, place)


def multiply_rows(fmt, w, x, y, first, last):
    """Compiled code only: elements `first` to `last` of each token's output, by panels; at least 16 rows in all."""


@overload(multiply_rows, jit_options=INLINED_OPTIONS)
def _multiply_rows(fmt, w, x, y, first, last):
    qk, type_size, scales = fmt.format.qk, fmt.format.type_size, fmt.format.unpacked.scales
    stretch_blocks = STRETCH // qk

    def multiply(fmt, w, x, y, first, last):
        num_tokens, n_out = y.shape
        blocks = x.d.shape[1]
        row_bytes = blocks * type_size
        panel = make_panel(qk, scales)
        acc = np.empty(min(num_tokens, COLUMNS) * TILE_ROWS, np.float32)
        for token in range(0, num_tokens, COLUMNS):
            end = min(token + COLUMNS, num_tokens)
            for row in range(first, last, TILE_ROWS):
                top = min(row, n_out - TILE_ROWS)  # the last rows may be computed twice
                acc[:] = 0
                for block in range(0, blocks, stretch_blocks):
                    n = min(stretch_blocks, blocks - block)
                    start = top * row_bytes + block * type_size
                    ahead = (top + TILE_ROWS) * row_bytes + TILE_ROWS * block * type_size
                    unpack_panel(fmt, w, start, row_bytes, n, ahead, panel)
                    multiply_columns(fmt, panel, n, x, token, end, block, acc)
                for t in range(token, end):
                    for r in range(row, min(row + TILE_ROWS, last)):
                        y[t, r] = acc[(t - token) * TILE_ROWS + r - top]

    return multiply
