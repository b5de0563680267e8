"""Products with few tokens by tile registers (AMX), for formats with blocks of 32 elements.

16 rows of the matrix are the rows of a tile register, which takes int8 as they lie in memory: blocks of Q8_0 are
multiplied where they are, others are unpacked one after the other, without a rearrangement. In the end lane = token,
with the same integer sums and the same order of float operations as in `gemv`: the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .ahead import LINE
from .cache import inlined
from .formats.base import Format
from .panel import RUN, Panel
from .simd import interleave_32, load_f32x8, load_u32, local_array, prefetch_far, store, store_u32
from .simd_amx import release_tiles, without_offset
from .simd_amx_rows import (
    ROWS,
    SUMS,
    TOKENS,
    add_row_products,
    configure_row_tiles,
    multiply_row_tiles,
    store_by_token,
    zero_results,
)

FEWEST_TOKENS = 3  # fewer are as fast without


class FewTokens(NamedTuple):
    """Activations of all tokens as tiles take them, in groups of eight; of the last group some may be zero."""

    q: np.ndarray  # (n_in / RUN, groups, RUN / 4, TOKENS, 4) int8, flat
    d: np.ndarray  # (n_in / RUN, groups, TOKENS) float32, flat
    sums: np.ndarray  # as d: the sums of a run times the format's factor; empty without minimums


@inlined
def arrange_group(x, group, groups, q):
    """Fill the places of a group in the q of `FewTokens`."""
    num_tokens, n_in = x.q.shape
    first = TOKENS * group
    count = min(num_tokens - first, TOKENS)
    for run in range(n_in // RUN):
        place, source = (run * groups + group) * RUN * TOKENS, first * n_in + run * RUN
        if count == TOKENS:
            store(q, place, interleave_32(x.q, source, n_in))
        else:
            for lane in range(count):
                for quad in range(0, RUN, 4):
                    store_u32(q, place + 4 * lane + quad * TOKENS, load_u32(x.q, source + lane * n_in + quad))


@inlined
def arrange_few(x, groups, factor, tokens):
    """Fill `tokens` from x."""
    num_tokens, n_in = x.q.shape
    num_runs, width = n_in // RUN, groups * TOKENS
    if num_tokens < width:
        tokens.q[:] = 0
        tokens.d[:] = 0
    for group in range(groups):
        arrange_group(x, group, groups, tokens.q)
    for token in range(num_tokens):
        for run in range(num_runs):
            tokens.d[run * width + token] = x.d[token, run]
            if tokens.sums.size:
                total = np.int32(x.sums[token, 2 * run]) + np.int32(x.sums[token, 2 * run + 1])
                tokens.sums[run * width + token] = np.float32(factor * total)


@inlined
def write_few(y, row, last, rows, top, out):
    """Copy elements `row` to `last` of the output from `out` (num_tokens, rows), where they begin with `top`."""
    num_tokens, n_out = y.shape
    for token in range(num_tokens):
        if row + rows <= last:
            for r in range(0, rows, 8):
                store(y, token * n_out + row + r, load_f32x8(out, rows * token + r))
        else:
            for r in range(row, last):
                y[token, r] = out[rows * token + r - top]


def multiply_rows_amx(fmt: Format) -> Callable[..., None]:
    """The function (w, row_bytes, x, y, first, last) for one format, to be compiled as part of `matmul`.

    It takes at most 2 * TOKENS tokens, and a matrix of at least 32 rows.
    """
    how, type_size = fmt.unpacked, fmt.type_size
    assert how is not None
    row_quants: Any = how.row_quants
    unpack_header, offset = how.unpack_header, how.bias
    has_minimum, factor, place = how.has_minimum, how.factor or 0, how.quants_at
    tile_size = ROWS * RUN

    def multiply_rows(tiles: int, groups: int) -> Callable[..., None]:
        rows, sums_size = tiles * ROWS, tiles * groups * SUMS
        q_size, parts = tiles * tile_size, tiles * ROWS // 8
        two_rows, two_sums = 2 * rows, 2 * sums_size

        @inlined
        def multiply_block(w, top, row_bytes, panel, tokens, b, sums):
            """The sums of a block of each row with each token; they take the place of those of b - 2."""
            block, odd = top * row_bytes + b * type_size, b & 1
            ahead = (top + rows) * row_bytes + rows * b * type_size
            for line in range(0, rows * type_size, LINE):
                prefetch_far(w, ahead + line)
            for part in range(parts):
                unpack_header(w, block + 8 * part * row_bytes, row_bytes, panel, parts * odd + part)
            if place < 0:
                for row in range(rows):
                    store(panel.q, RUN * row, without_offset(offset, row_quants(w, block + row * row_bytes)))
            x_at, sums_at = b * groups * RUN * TOKENS, sums_size * odd
            if place < 0:
                multiply_row_tiles(tiles, groups, panel.q, 0, tile_size, RUN, tokens.q, x_at, sums, sums_at)
            else:
                at = block + place
                multiply_row_tiles(tiles, groups, w, at, ROWS * row_bytes, row_bytes, tokens.q, x_at, sums, sums_at)

        @inlined
        def multiply(w, row_bytes, tokens, y, first, last):
            n_out, num_blocks = y.shape[1], row_bytes // type_size
            panel = Panel(
                local_array(np.int8, q_size),
                local_array(np.int16, 1),
                local_array(np.int16, 1),
                local_array(np.float32, two_rows),
                local_array(np.float32, two_rows),
            )
            sums, out = local_array(np.int32, two_sums), local_array(np.float32, sums_size)
            for row in range(first, last, rows):
                top = min(row, n_out - rows)
                result = zero_results(tiles, groups)
                multiply_block(w, top, row_bytes, panel, tokens, 0, sums)
                for b in range(num_blocks):
                    if b + 1 < num_blocks:  # the tile registers go ahead by a block: their sums take a while to arrive
                        multiply_block(w, top, row_bytes, panel, tokens, b + 1, sums)
                    of_block, odd = b * groups * TOKENS, b & 1
                    result = add_row_products(
                        tiles, groups, has_minimum, sums, sums_size * odd, panel.d, panel.dmin, rows * odd,
                        tokens.d, of_block, tokens.sums, of_block, result,
                    )  # fmt: skip
                store_by_token(tiles, groups, result, out)
                write_few(y, row, last, rows, top, out)

        return multiply

    multiply_eight, multiply_sixteen = multiply_rows(2, 1), multiply_rows(1, 2)

    @inlined
    def multiply(w, row_bytes, x, y, first, last):
        num_tokens, n_in = x.q.shape
        groups = (num_tokens + TOKENS - 1) // TOKENS
        size = n_in // RUN * groups * TOKENS
        tokens = FewTokens(
            np.empty(size * RUN, np.int8), np.empty(size, np.float32), np.empty(size * has_minimum, np.float32)
        )
        arrange_few(x, groups, factor, tokens)
        configure_row_tiles()
        if groups == 1:
            multiply_eight(w, row_bytes, tokens, y, first, last)
        else:
            multiply_sixteen(w, row_bytes, tokens, y, first, last)
        release_tiles()

    return multiply
