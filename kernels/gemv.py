"""Products of eight rows with one or two tokens: the form of `matmul` for decoding.

In the end lane = row, as in `gemm`, with the same integer sums and the same order of float operations. K-quants come
there row by row: 32 quants of a row meet 32 activations, the products are scaled and added lane by lane, and only the
sum of a whole block, an exact integer, is taken across lanes, for eight rows at once. Blocks of 32 elements are too
short for that: their quants are interleaved as in a panel, and no sum is ever taken across lanes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba.extending import overload

from .cache import INLINED_OPTIONS, inlined
from .formats.base import Format
from .panel import RUN
from .simd import (
    TILE_ROWS,
    as_floats,
    broadcast_pair,
    dot_row,
    dot_runs,
    f32x8,
    fma,
    i16x16,
    i32x8,
    load_f32x8,
    load_i16x16,
    load_i32x8,
    local_array,
    madd,
    multipliers,
    prefetch_far,
    store,
    sum_rows,
)

ROWS = 8
FAR = 16384  # bytes behind the next eight rows: what is prefetched now


def multiply_eight(fmt, columns, w, start, stride, header, x, token, out):
    """Compiled code only: eight rows times `columns` tokens (1 or 2): out[8 * column + row], float32.

    start, stride : where in w the first row begins, and how far the next ones lie behind it, in bytes
    header : a panel, of which one block is used
    """


@overload(multiply_eight, jit_options=INLINED_OPTIONS, prefer_literal=True)
def _multiply_eight(fmt, columns, w, start, stride, header, x, token, out):
    type_size, qk, how = fmt.format.type_size, fmt.format.qk, fmt.format.unpacked
    unpack_header, has_minimum, num_runs = how.unpack_header, how.has_minimum, qk // RUN
    has_m, has_factors, factor = how.has_m, how.factor is None, how.factor or 0
    columns = columns.literal_value
    dot_block = (_dot_row_by_row if how.scales else _dot_interleaved)(fmt.format, columns)
    sums_size = ROWS * columns

    def multiply(fmt, columns, w, start, stride, header, x, token, out):
        num_blocks, sums = x.d.shape[1], local_array(np.int32, sums_size)
        for i in range(sums_size):
            out[i] = 0
        for b in range(num_blocks):
            block, ahead = start + b * type_size, start + ROWS * (num_blocks + b) * type_size + FAR
            unpack_header(w, block, stride, header, 0)
            dot_block(w, block, stride, ahead, header, x, (token * num_blocks + b) * qk, sums)
            for c in range(columns):
                column = (token + c) * num_blocks + b  # in the flattened x.d
                s, m = load_i32x8(sums, ROWS * c), i32x8(0)
                if has_m:
                    for run in range(num_runs):
                        factors = load_i16x16(header.factors, 2 * TILE_ROWS * run) if has_factors else i16x16(factor)
                        m += madd(factors, broadcast_pair(x.sums, (column * qk + RUN * run) // 16))
                d, dx, acc = load_f32x8(header.d, 0), f32x8(x.d[token + c, b]), load_f32x8(out, ROWS * c)
                if has_minimum:
                    minimum = load_f32x8(header.dmin, 0) * as_floats(m)
                    acc = fma(dx, fma(d, as_floats(s), -minimum), acc)
                else:
                    acc = fma(dx, d * as_floats(s - m), acc)
                store(out, ROWS * c, acc)

    return multiply


def multiply_few(fmt, w, row_bytes, panel, x, y, first, last, out):
    """Compiled code only: elements `first` to `last` of the output of few tokens, or of few rows in all.

    panel, out : memory to work with
    """


@overload(multiply_few, jit_options=INLINED_OPTIONS)
def _multiply_few(fmt, w, row_bytes, panel, x, y, first, last, out):
    def multiply(fmt, w, row_bytes, panel, x, y, first, last, out):
        num_tokens, n_out = y.shape
        # A matrix of fewer rows is computed one by one, each in all lanes.
        rows, stride = (ROWS, row_bytes) if n_out >= ROWS else (1, 0)
        for row in range(first, last, rows):
            top = min(row, n_out - rows)  # the last rows may be computed twice
            for token in range(0, num_tokens, 2):
                if token + 1 < num_tokens:
                    multiply_eight(fmt, 2, w, top * row_bytes, stride, panel, x, token, out)
                else:
                    multiply_eight(fmt, 1, w, top * row_bytes, stride, panel, x, token, out)
                for column in range(min(2, num_tokens - token)):
                    for r in range(row, min(row + rows, last)):
                        y[token + column, r] = out[ROWS * column + r - top]

    return multiply


def _dot_row_by_row(fmt: Format, columns: int) -> Callable[..., None]:
    """(w, block, stride, ahead, header, x, first, sums): sum of scale * q * x over a block of eight rows, for K-quants.

    ahead : where bytes lie that will be read soon, and are prefetched
    first : of the flattened x.q, where the block's activations begin for the first column
    sums : int32 [8 * column + row], the result
    """
    how, type_size, size = fmt.unpacked, fmt.type_size, ROWS * ROWS * columns
    assert how is not None
    scales, is_signed, unpack_quants, groups = how.scales, how.is_signed, how.unpack_quants, how.groups
    in_group, factors_in_group = fmt.qk // groups, fmt.qk // RUN // groups * scales * 2 * TILE_ROWS

    @inlined
    def dot(w, block, stride, ahead, header, x, first, sums):
        n_in, partial = x.q.shape[1], local_array(np.int32, size)
        for row in range(ROWS):
            for line in range(0, type_size, 64):
                prefetch_far(w, ahead + row * type_size + line)
            total = second = i32x8(0)
            for group in range(groups):
                q, k = unpack_quants(w, block + row * stride, None, group), first + in_group * group
                at = 2 * row + factors_in_group * group
                total += dot_row(scales, is_signed, q, header.scales, at, x.q, k)
                if columns == 2:
                    second += dot_row(scales, is_signed, q, header.scales, at, x.q, k + n_in)
            store(partial, ROWS * row, total)
            if columns == 2:
                store(partial, ROWS * (ROWS + row), second)
        for c in range(columns):
            store(sums, ROWS * c, sum_rows(partial, ROWS * ROWS * c))

    return dot


def _dot_interleaved(fmt: Format, columns: int) -> Callable[..., None]:
    """The same for any format."""
    how, num_runs, num_bytes = fmt.unpacked, fmt.qk // RUN, ROWS * fmt.type_size
    assert how is not None
    steps, scales, is_signed, bias = how.steps, how.scales, how.is_signed, how.bias
    unpack_quants, groups, runs_in_group = how.unpack_quants, how.groups, num_runs // how.groups

    @inlined
    def dot(w, block, stride, ahead, header, x, first, sums):
        n_in = x.q.shape[1]
        for line in range(0, num_bytes, 64):
            prefetch_far(w, ahead + line)
        total = second = i32x8(0)
        for group in range(groups):
            q, run = multipliers(is_signed, False, unpack_quants(w, block, stride, group)), group * runs_in_group
            at, k = 2 * TILE_ROWS * scales * run, first + RUN * run
            total += dot_runs(steps, scales, is_signed, bias, q, header.scales, at, x.q, k, x.sums)
            if columns == 2:
                second += dot_runs(steps, scales, is_signed, bias, q, header.scales, at, x.q, k + n_in, x.sums)
        store(sums, 0, total)
        if columns == 2:
            store(sums, ROWS, second)

    return dot
