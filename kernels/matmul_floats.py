"""Products of float weights: four rows at a time, with one token or three.

The order of additions is that of the formats' `vec_dot`, for every shape: element k goes to partial sum k mod 8, and
the tree of `sum_f32x8` adds the eight. Several sums at once hide the latency of each `fma`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .cache import inlined
from .formats import Format
from .simd import (
    concat,
    f32x8,
    fma_f32,
    fma_tile,
    load_f32x8,
    local_array,
    prefetch_far,
    store,
    sum_f32x8,
    with_lane,
)

ROWS = 4
FAR = 16384  # bytes behind the next rows: what is prefetched now
TOKENS = 24  # whose activations stay in the L2 cache while the rows of a task pass


@inlined
def four_times(v):
    """A vector for each row."""
    return concat(concat(v, v), concat(v, v))


def multiply_floats(fmt: Format) -> Callable[..., None]:
    """The function (fmt, type_size, w, x, y, first, last) for one format, to be compiled as part of `matmul`."""
    assert fmt.loads is not None
    (load, load_8), size, sums_size = fmt.loads, fmt.type_size, 8 * ROWS

    @inlined
    def four_rows(w, at, stride):
        """Eight elements of each of four rows."""
        low = concat(load_8(w, at), load_8(w, at + stride))
        return concat(low, concat(load_8(w, at + 2 * stride), load_8(w, at + 3 * stride)))

    @inlined
    def finish(w, at, stride, x, token, sums, y, row, skip, rows):
        """Add the last elements, fewer than eight, to a token's partial sums for four rows, and write y.

        `rows` of the four are valid; the first `skip` of them were written before.
        """
        n_in, partial = x.shape[1], local_array(np.float32, sums_size)
        whole = n_in // 8 * 8
        store(partial, 0, sums)
        for r in range(skip, rows):
            acc = load_f32x8(partial, 8 * r)
            for k in range(whole, n_in):
                lane = fma_f32(load(w, at + r * stride + k * size), x[token, k], acc[k - whole])
                acc = with_lane(acc, k - whole, lane)
            y[token, row + r - skip] = sum_f32x8(acc)

    @inlined
    def one_token(w, at, stride, x, token, y, row, skip, rows):
        n_in, acc = x.shape[1], four_times(f32x8(0.0))
        for k in range(0, n_in // 8 * 8, 8):
            for line in range(0, 8 * ROWS * size, 64):
                prefetch_far(w, at + ROWS * (n_in + k) * size + FAR + line)  # the next rows
            acc = fma_tile(four_rows(w, at + k * size, stride), four_times(load_f32x8(x, token * n_in + k)), acc)
        finish(w, at, stride, x, token, acc, y, row, skip, rows)

    @inlined
    def three_tokens(w, at, stride, x, token, y, row, skip, rows):
        n_in, acc0 = x.shape[1], four_times(f32x8(0.0))
        acc1 = acc2 = acc0
        for k in range(0, n_in // 8 * 8, 8):
            weights, place = four_rows(w, at + k * size, stride), token * n_in + k
            acc0 = fma_tile(weights, four_times(load_f32x8(x, place)), acc0)
            acc1 = fma_tile(weights, four_times(load_f32x8(x, place + n_in)), acc1)
            acc2 = fma_tile(weights, four_times(load_f32x8(x, place + 2 * n_in)), acc2)
        for c in range(3):
            acc = acc0 if c == 0 else (acc1 if c == 1 else acc2)
            finish(w, at, stride, x, token + c, acc, y, row, skip, rows)

    def multiply(fmt, type_size, w, x, y, first, last):
        (num_tokens, n_out), row_bytes = y.shape, x.shape[1] * size
        # A matrix of fewer rows is computed one by one, each in the place of four.
        rows, stride = (ROWS, row_bytes) if n_out >= ROWS else (1, 0)
        for begin in range(0, num_tokens, TOKENS):
            end = min(begin + TOKENS, num_tokens)
            for row in range(first, last, rows):
                top = min(row, n_out - rows)
                token = begin
                while token + 3 <= end:
                    three_tokens(w, top * row_bytes, stride, x, token, y, row, row - top, rows)
                    token += 3
                while token < end:
                    one_token(w, top * row_bytes, stride, x, token, y, row, row - top, rows)
                    token += 1

    return multiply
