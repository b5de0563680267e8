"""Products of panels with activations: the form of `matmul` for quantized weights and any number of tokens.

Lane = row, and in each lane exactly the arithmetic of the format's `vec_dot`: exact integer sums of a block, then
``acc = fma(dx, fma(d, S, -(dmin * M)), acc)`` or ``fma(dx, d * S, acc)``, blocks in ascending order. So results have
the bits of `vec_dot`, however many tokens a tile has and however the rows are cut.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from .ahead import ask, plan_ahead
from .cache import INLINED_OPTIONS
from .gemv import multiply_few
from .panel import RUN, STRETCH, Panel
from .simd import (
    HAS_DOT,
    PARTS,
    TAKES_MAGNITUDES,
    TILE_ROWS,
    as_floats,
    dot_tile,
    each_column,
    each_row,
    fma_tile,
    load_column,
    load_tile,
    local_array,
    multipliers,
    outer_madd,
    store,
    store_rows,
    zero_i32,
)

COLUMNS = 4 if HAS_DOT else 2  # tokens that a panel is multiplied with at once: sums of two steps need more registers
FEW = 4  # tokens: fewer do without panels
MULTIPLY_WORK = 3  # how long a run takes with COLUMNS tokens; unpacking it for eight rows is the unit
TOKENS = 256  # that pass by a panel before the next rows are unpacked


def multiply_panel(fmt, columns, panel, num_blocks, x, token, block, acc, place, w, ahead):
    """Compiled code only: add the products of `num_blocks` blocks of a panel with `columns` tokens to a tile of acc.

    token, block : the first token of x, and its block that belongs to the panel's first
    acc, place : float32 (..., TILE_ROWS), one token after the other from element `place`
    w, ahead : what to prefetch meanwhile; returns what is left of it
    """


@overload(multiply_panel, jit_options=INLINED_OPTIONS, prefer_literal=True)
def _multiply_panel(fmt, columns, panel, num_blocks, x, token, block, acc, place, w, ahead):
    columns, qk, how = columns.literal_value, fmt.format.qk, fmt.format.unpacked
    steps, scales, is_signed, has_minimum = how.steps, how.scales, how.is_signed, how.has_minimum
    bias, factor, num_runs, has_m = how.bias, how.factor or 0, qk // RUN, how.has_m
    has_factors = how.factor is None

    q_bytes = TILE_ROWS * RUN * (2 if is_signed and TAKES_MAGNITUDES else 1)  # of a run

    def multiply(fmt, columns, panel, num_blocks, x, token, block, acc, place, w, ahead):
        n_in, blocks_in = x.q.shape[1], x.d.shape[1]
        result = load_tile(columns, acc, place)
        for b in range(num_blocks):
            column = token * blocks_in + block + b  # in the flattened x.d
            m = zero_i32(columns)
            if has_m:
                at, k = 2 * TILE_ROWS * b * num_runs, column * qk
                factors = panel.factors if has_factors else factor
                m = outer_madd(columns, num_runs, factors, at, x.sums, k // 16, n_in // 16)
            s = zero_i32(columns) if has_minimum else zero_i32(columns) - m
            for run in range(num_runs):
                ahead = ask(w, ahead, MULTIPLY_WORK)
                k, number = column * qk + RUN * run, b * num_runs + run
                q, at = q_bytes * number, 2 * TILE_ROWS * number
                s += dot_tile(
                    columns, steps, scales, is_signed, bias, panel.q, q, panel.scales, at * scales, x.q, k, n_in, x.sums
                )
            d = each_row(columns, load_column(panel.d, TILE_ROWS * b))
            dx = each_column(columns, x.d, column, blocks_in)
            if has_minimum:
                minimum = each_row(columns, load_column(panel.dmin, TILE_ROWS * b)) * as_floats(m)
                result = fma_tile(dx, fma_tile(d, as_floats(s), -minimum), result)
            else:
                result = fma_tile(dx, d * as_floats(s), result)
        store(acc, place, result)
        return ahead

    return multiply


def unpack_panel(fmt, w, start, stride, num_blocks, panel, ahead):
    """Compiled code only: fill a panel with `num_blocks` blocks of the rows whose first block begins at byte `start`.

    stride : bytes between rows
    ahead : what to prefetch meanwhile; returns what is left of it
    """


@overload(unpack_panel, jit_options=INLINED_OPTIONS)
def _unpack_panel(fmt, w, start, stride, num_blocks, panel, ahead):
    how, type_size = fmt.format.unpacked, fmt.format.type_size
    unpack_header, unpack_quants, groups, is_signed = how.unpack_header, how.unpack_quants, how.groups, how.is_signed
    runs_in_group = fmt.format.qk // RUN // groups

    def fill(fmt, w, start, stride, num_blocks, panel, ahead):
        for part in range(PARTS):
            for b in range(num_blocks):
                block = start + 8 * part * stride + b * type_size
                unpack_header(w, block, stride, panel, PARTS * b + part)
                for group in range(groups):
                    ahead = ask(w, ahead, runs_in_group)
                    quants = multipliers(is_signed, True, unpack_quants(w, block, stride, group))
                    store_rows(panel.q, PARTS * (b * groups + group) + part, quants)
        return ahead

    return fill


def multiply_panels(fmt):
    """The function (fmt, type_size, w, x, y, first, last) for one format, to be compiled as part of `matmul`."""
    qk, scales = fmt.qk, max(fmt.unpacked.scales, 1)
    blocks_in_panel, runs_in_panel, runs_in_block = STRETCH // qk, STRETCH // RUN, qk // RUN
    q_size = TILE_ROWS * STRETCH * (2 if fmt.unpacked.is_signed and TAKES_MAGNITUDES else 1)
    factors_size, d_size = 2 * TILE_ROWS * runs_in_panel, TILE_ROWS * blocks_in_panel
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
        if num_tokens < FEW or n_out < TILE_ROWS:
            multiply_few(fmt, w, row_bytes, panel, x, y, first, last, acc)
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
                    place, size = (
                        (top + TILE_ROWS) * row_bytes + TILE_ROWS * block * type_size,
                        TILE_ROWS * type_size * n,
                    )
                    work = n * runs_in_block * (PARTS + MULTIPLY_WORK * num_tiles)
                    ahead = plan_ahead(place, size, work)
                    ahead = unpack_panel(fmt, w, top * row_bytes + block * type_size, row_bytes, n, panel, ahead)
                    for i in range(num_tiles):  # the last tile may repeat tokens, too
                        token = min(begin + COLUMNS * i, end - COLUMNS)
                        ahead = multiply_panel(fmt, COLUMNS, panel, n, x, token, block, acc, tile_size * i, w, ahead)
                for i in range(COLUMNS * num_tiles):
                    token = min(begin + i // COLUMNS * COLUMNS, end - COLUMNS) + i % COLUMNS
                    if row + TILE_ROWS <= last:
                        store(y, token * n_out + row, load_column(acc, TILE_ROWS * i))
                    else:
                        for r in range(row, last):
                            y[token, r] = acc[TILE_ROWS * i + r - top]

    return multiply
