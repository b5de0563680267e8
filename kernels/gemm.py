"""Products of panels with activations: the form of `matmul` for quantized weights and any number of tokens.

Lane = row, and in each lane exactly the arithmetic of the format's `vec_dot`: exact integer sums of a block, then
``acc = fma(dx, fma(d, S, -(dmin * M)), acc)`` or ``fma(dx, d * S, acc)``, blocks in ascending order. So results have
the bits of `vec_dot`, however many tokens a tile has and however the rows are cut.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from .cache import INLINED_OPTIONS
from .gemv import multiply_eight
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
    local_array,
    madd_rows,
    outer_madd,
    prefetch,
    products,
    store,
    zero_i32,
)

COLUMNS = 4  # tokens that a panel is multiplied with at once
TOKENS = 256  # that pass by a panel before the next rows are unpacked


def multiply_panel(fmt, columns, panel, num_blocks, x, token, block, acc, place):
    """Compiled code only: add the products of `num_blocks` blocks of a panel with `columns` tokens to a tile of acc.

    token, block : the first token of x, and its block that belongs to the panel's first
    acc, place : float32 (..., TILE_ROWS), one token after the other from element `place`
    """


@overload(multiply_panel, jit_options=INLINED_OPTIONS, prefer_literal=True)
def _multiply_panel(fmt, columns, panel, num_blocks, x, token, block, acc, place):
    columns, qk, how = columns.literal_value, fmt.format.qk, fmt.format.unpacked
    steps, scales, is_signed, has_minimum = how.steps, how.scales, how.is_signed, how.has_minimum
    has_factors, factor, corrects = how.factor is None, how.factor or 0, how.factor != 0
    num_runs, parts = qk // RUN, 8 // steps

    def multiply(fmt, columns, panel, num_blocks, x, token, block, acc, place):
        n_in, blocks_in, half = x.q.shape[1], x.d.shape[1], panel.q.size // 2
        result = load_tile(columns, acc, place)
        for b in range(num_blocks):
            column = token * blocks_in + block + b  # in the flattened x.d
            s, m = zero_i32(columns), zero_i32(columns)
            for run in range(b * num_runs, (b + 1) * num_runs):
                kx = column * qk + RUN * (run - b * num_runs)
                for i in range(parts):
                    q = 8 * (RUN * run + 4 * steps * i)
                    sums = products(columns, steps, is_signed, panel.q, q, half, x.q, kx + 4 * steps * i, n_in)
                    if scales:
                        s += madd_rows(sums, load_both(panel.scales, 16 * (run * scales + i * scales // parts)))
                    else:
                        s += madd_rows(sums, concat(i16x16(1), i16x16(1)))
            if corrects:
                for run in range(num_runs):
                    if has_factors:
                        factors = load_both(panel.factors, 16 * (b * num_runs + run))
                    else:
                        factors = concat(i16x16(factor), i16x16(factor))
                    m += outer_madd(columns, factors, x.sums, (column * qk + RUN * run) // 16, n_in // 16)
            d = each_row(columns, load_both(panel.d, 8 * b))
            dx = each_column(columns, x.d, column, blocks_in)
            if has_minimum:
                minimum = each_row(columns, load_both(panel.dmin, 8 * b)) * as_floats(m)
                result = fma_tile(dx, fma_tile(d, as_floats(s), -minimum), result)
            else:
                result = fma_tile(dx, d * as_floats(s - m), result)
        store(acc, place, result)

    return multiply


def unpack_panel(fmt, w, start, stride, num_blocks, ahead, panel):
    """Compiled code only: fill a panel with `num_blocks` blocks of the rows whose first block begins at byte `start`.

    stride : bytes between rows
    ahead : where the bytes lie that are read next, and are prefetched now
    """


@overload(unpack_panel, jit_options=INLINED_OPTIONS)
def _unpack_panel(fmt, w, start, stride, num_blocks, ahead, panel):
    how, type_size, qk, in_half = fmt.format.unpacked, fmt.format.type_size, fmt.format.qk, STRETCH // fmt.format.qk
    unpack_header, unpack_quants, groups = how.unpack_header, how.unpack_quants, how.groups
    in_group = 8 * qk // groups

    def fill(fmt, w, start, stride, num_blocks, ahead, panel):
        for i in range(2 * num_blocks):
            half, b = (1, i - num_blocks) if i >= num_blocks else (0, i)
            for line in range(0, 8 * type_size, 64):
                prefetch(w, ahead + 8 * type_size * i + line)
            block, index = start + 8 * half * stride + b * type_size, half * in_half + b
            unpack_header(w, block, stride, panel, index)
            for group in range(groups):
                store(panel.q, 8 * qk * index + in_group * group, unpack_quants(w, block, stride, group))

    return fill


def multiply_panels(fmt):
    """The function (fmt, type_size, w, x, y, first, last) for one format, to be compiled as part of `matmul`."""
    qk, scales = fmt.qk, max(fmt.unpacked.scales, 1)
    blocks_in_panel, runs_in_panel = STRETCH // qk, STRETCH // RUN
    q_size, factors_size, d_size = TILE_ROWS * STRETCH, 2 * TILE_ROWS * runs_in_panel, TILE_ROWS * blocks_in_panel
    scales_size, acc_size, tile_size = factors_size * scales, TILE_ROWS * TOKENS, TILE_ROWS * COLUMNS

    def multiply(fmt, type_size, w, x, y, first, last):
        num_tokens, n_out = y.shape
        num_blocks = x.d.shape[1]
        row_bytes = num_blocks * type_size
        panel = Panel(
            local_array(np.uint8, q_size),
            local_array(np.int16, scales_size),
            local_array(np.int16, factors_size),
            local_array(np.float32, d_size),
            local_array(np.float32, d_size),
        )
        acc = local_array(np.float32, acc_size)
        if num_tokens < COLUMNS or n_out < TILE_ROWS:
            # A matrix of fewer rows is computed one by one, each in all lanes.
            rows, stride = (8, row_bytes) if n_out >= 8 else (1, 0)
            for row in range(first, last, rows):
                top = min(row, n_out - rows)  # the last rows may be computed twice
                for token in range(0, num_tokens, 2):
                    if token + 1 < num_tokens:
                        multiply_eight(fmt, 2, w, top * row_bytes, stride, panel, x, token, acc)
                    else:
                        multiply_eight(fmt, 1, w, top * row_bytes, stride, panel, x, token, acc)
                    for column in range(min(2, num_tokens - token)):
                        for r in range(row, min(row + rows, last)):
                            y[token + column, r] = acc[8 * column + r - top]
            return
        for begin in range(0, num_tokens, TOKENS):
            end = min(begin + TOKENS, num_tokens)
            num_tiles = (end - begin + COLUMNS - 1) // COLUMNS
            for row in range(first, last, TILE_ROWS):
                top = min(row, n_out - TILE_ROWS)
                for i in range(tile_size * num_tiles):
                    acc[i] = 0
                for block in range(0, num_blocks, blocks_in_panel):
                    n = min(blocks_in_panel, num_blocks - block)
                    ahead = (top + TILE_ROWS) * row_bytes + TILE_ROWS * block * type_size
                    unpack_panel(fmt, w, top * row_bytes + block * type_size, row_bytes, n, ahead, panel)
                    for i in range(num_tiles):  # the last tile may repeat tokens, too
                        token = min(begin + COLUMNS * i, end - COLUMNS)
                        multiply_panel(fmt, COLUMNS, panel, n, x, token, block, acc, tile_size * i)
                for i in range(COLUMNS * num_tiles):
                    token = min(begin + i // COLUMNS * COLUMNS, end - COLUMNS) + i % COLUMNS
                    for r in range(row, min(row + TILE_ROWS, last)):
                        y[token, r] = acc[TILE_ROWS * i + r - top]

    return multiply
