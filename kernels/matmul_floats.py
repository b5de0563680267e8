"""Products of float weights: four rows at a time, with one token or three.

The order of additions is that of the formats' `vec_dot`, for every shape: element k goes to partial sum k mod 8, and
the tree of `sum_f32x8` adds the eight. Several sums at once hide the latency of each `fma`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import gemm_floats
from .cache import inlined
from .formats import Format
from .gemm_floats import multiply_float_panels
from .simd import (
    concat,
    f32x8,
    fma,
    fma_f32,
    fma_tile,
    load_f32x8,
    local_array,
    prefetch_far,
    settled,
    store,
    sum_f32x8,
    with_lane,
)
from .simd_types import HAS_AVX512

ROWS = 4
FAR = 16384  # bytes behind the next rows: what is prefetched now
TOKENS = 24  # whose activations stay in the L2 cache while the rows of a task pass


@inlined
def four(a, b, c, d):
    """A vector for each row."""
    return concat(concat(a, b), concat(c, d))


def multiply_floats(fmt: Format) -> Callable[..., None]:
    """The function (fmt, type_size, w, x, y, first, last) for one format, to be compiled as part of `matmul`."""
    assert fmt.loads is not None
    (load, load_8), size, sums_size = fmt.loads, fmt.type_size, 8 * ROWS

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
        n_in, zero = x.shape[1], f32x8(0.0)
        acc = four(zero, zero, zero, zero)
        for k in range(0, n_in // 8 * 8, 8):
            for line in range(0, 8 * ROWS * size, 64):
                prefetch_far(w, at + ROWS * (n_in + k) * size + FAR + line)  # the next rows
            place, v = at + k * size, load_f32x8(x, token * n_in + k)
            weights = four(
                load_8(w, place),
                load_8(w, place + stride),
                load_8(w, place + 2 * stride),
                load_8(w, place + 3 * stride),
            )
            acc = fma_tile(weights, four(v, v, v, v), acc)
        finish(w, at, stride, x, token, acc, y, row, skip, rows)

    @inlined
    def three_tokens(w, at, stride, x, token, y, row, skip, rows):
        n_in = x.shape[1]
        a0 = b0 = c0 = a1 = b1 = c1 = a2 = b2 = c2 = a3 = b3 = c3 = f32x8(0.0)  # of tokens a, b, c and rows 0 to 3
        for k in range(0, n_in // 8 * 8, 8):
            place, column = at + k * size, token * n_in + k
            a, b = load_f32x8(x, column), load_f32x8(x, column + n_in)
            c = load_f32x8(x, column + 2 * n_in)
            weights = load_8(w, place)
            a0, b0, c0 = settled(fma(weights, a, a0), fma(weights, b, b0), fma(weights, c, c0))
            weights = load_8(w, place + stride)
            a1, b1, c1 = settled(fma(weights, a, a1), fma(weights, b, b1), fma(weights, c, c1))
            weights = load_8(w, place + 2 * stride)
            a2, b2, c2 = settled(fma(weights, a, a2), fma(weights, b, b2), fma(weights, c, c2))
            weights = load_8(w, place + 3 * stride)
            a3, b3, c3 = settled(fma(weights, a, a3), fma(weights, b, b3), fma(weights, c, c3))
        finish(w, at, stride, x, token, four(a0, a1, a2, a3), y, row, skip, rows)
        finish(w, at, stride, x, token + 1, four(b0, b1, b2, b3), y, row, skip, rows)
        finish(w, at, stride, x, token + 2, four(c0, c1, c2, c3), y, row, skip, rows)

    multiply_panels = inlined(multiply_float_panels(fmt))

    def multiply(fmt, type_size, w, x, y, first, last):
        (num_tokens, n_out), row_bytes = y.shape, x.shape[1] * size
        if HAS_AVX512 and num_tokens >= gemm_floats.COLUMNS and n_out >= gemm_floats.ROWS:
            multiply_panels(fmt, type_size, w, x, y, first, last)
            return
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
