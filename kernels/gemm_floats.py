"""Products of float weights with several tokens, on registers of 16 floats: two rows of the matrix in each.

The order of additions is that of `matmul_floats`: element k goes to partial sum k mod 8, of which a row has eight, half
a register. A stretch of eight rows is converted to float32 once, two rows side by side, and meets all tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .cache import inlined
from .formats import Format
from .simd import (
    fma_f32,
    load_f32x8,
    local_array,
    prefetch_far,
    store,
    sum_f32x8,
    with_lane,
)
from .simd_tiles import fma_halves, load_floats

ROWS = 8  # of the matrix in a panel
STRETCH = 512  # elements of each row in a panel
COLUMNS = 4  # tokens that a panel is multiplied with at once
TOKENS = 64  # that pass by a panel before the next rows are converted
LANES = 8 * ROWS  # partial sums of a token


def multiply_float_panels(fmt: Format) -> Callable[..., None]:
    """The function (fmt, type_size, w, x, y, first, last) for one format, for COLUMNS tokens and ROWS rows or more."""
    assert fmt.loads is not None
    (load, load_8), size = fmt.loads, fmt.type_size
    panel_size, sums_size, tile_size = ROWS * STRETCH, TOKENS * LANES, COLUMNS * LANES

    @inlined
    def convert(w, start, stride, count, ahead, panel):
        """Fill a panel with `count` times eight elements of the rows from byte `start` on: (count, ROWS, 8) float32."""
        for i in range(count):
            for line in range(0, 8 * ROWS * size, 64):
                prefetch_far(w, ahead + 8 * ROWS * size * i + line)
            for r in range(ROWS):
                store(panel, LANES * i + 8 * r, load_8(w, start + r * stride + 8 * i * size))

    @inlined
    def finish(w, start, stride, x, token, sums, place, y, row, skip):
        """Add the last elements, fewer than eight, to a token's partial sums, and write y from row `row` on."""
        n_in = x.shape[1]
        whole = n_in // 8 * 8
        for r in range(skip, ROWS):
            acc = load_f32x8(sums, place + 8 * r)
            for k in range(whole, n_in):
                lane = fma_f32(load(w, start + r * stride + k * size), x[token, k], acc[k - whole])
                acc = with_lane(acc, k - whole, lane)
            y[token, row + r - skip] = sum_f32x8(acc)

    def multiply(fmt, type_size, w, x, y, first, last):
        (num_tokens, n_out), n_in = y.shape, x.shape[1]
        row_bytes, eights = n_in * size, n_in // 8
        panel, sums = local_array(np.float32, panel_size), local_array(np.float32, sums_size)
        for begin in range(0, num_tokens, TOKENS):
            end = min(begin + TOKENS, num_tokens)
            num_tiles = (end - begin + COLUMNS - 1) // COLUMNS
            for row in range(first, last, ROWS):
                top = min(row, n_out - ROWS)
                start = top * row_bytes
                for i in range(tile_size * num_tiles):
                    sums[i] = 0
                for k in range(0, eights, STRETCH // 8):
                    count, ahead = min(STRETCH // 8, eights - k), start + ROWS * (row_bytes + 8 * k * size)
                    convert(w, start + 8 * k * size, row_bytes, count, ahead, panel)
                    for i in range(num_tiles):  # the last tile may repeat tokens
                        token = max(min(begin + COLUMNS * i, end - COLUMNS), 0)
                        at = token * n_in + 8 * k
                        acc = load_floats(tile_size, sums, tile_size * i)
                        for j in range(count):
                            acc = fma_halves(COLUMNS, panel, LANES * j, x, at + 8 * j, n_in, acc)
                        store(sums, tile_size * i, acc)
                for i in range(COLUMNS * num_tiles):
                    token = max(min(begin + i // COLUMNS * COLUMNS, end - COLUMNS), 0) + i % COLUMNS
                    finish(w, start, row_bytes, x, token, sums, LANES * i, y, row, row - top)

    return multiply
