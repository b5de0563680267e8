"""Products of panels by tile registers (AMX): the form of `matmul` for quantized weights where the CPU has them.

As in `gemm`, lane = row, with the same exact integers and the same order of float operations: the same bits. What a
tile register adds up has no scales in it. Blocks of 32 elements have none within, and are one instruction. In blocks
of 256 each run has an integer scale, so a panel holds scale * (q - offset), which is exact, as two int8: the sum of a
whole block is S = lower + 128 * higher, of two sums that stay in tile registers for all its elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from .cache import INLINED_OPTIONS, inlined
from .formats.base import Format
from .gemm import Ahead, ask, multiply_panels
from .gemv_amx import FEWEST_TOKENS as FEWEST_BY_ROWS
from .gemv_amx import multiply_rows_amx
from .panel import RUN, Panel
from .simd import (
    PARTS,
    TILE_ROWS,
    load_column,
    load_i8x32,
    load_u32,
    local_array,
    store,
    store_rows,
)
from .simd_amx import (
    LANES,
    SUMS,
    TOKENS,
    add_products,
    configure_tiles,
    load_results,
    multiply_tiles,
    release_tiles,
    scaled_planes,
    store_results,
    without_offset,
)

STRETCH = 256  # elements of each row in a panel: two planes stay in the nearest cache
FEWEST_TOKENS = TOKENS  # fewer do not fill a tile, and are multiplied as in `gemm`
HALVES = TILE_ROWS // LANES  # of a panel: its rows that a tile register takes
BATCH = 512  # tokens that pass by a panel before the next rows are unpacked
MOST_IN_STEP = 64  # elements that a tile register takes of each token


def unpack_planes(fmt, w, start, stride, num_blocks, panel):
    """Compiled code only: as `gemm.unpack_panel`, with integer scales multiplied in: one or two planes of int8."""


@overload(unpack_planes, jit_options=INLINED_OPTIONS)
def _unpack_planes(fmt, w, start, stride, num_blocks, panel):
    how, type_size, qk = fmt.format.unpacked, fmt.format.type_size, fmt.format.qk
    unpack_header, unpack_quants, groups = how.unpack_header, how.unpack_quants, how.groups
    scales, offset, runs_in_group = how.scales, how.offset or how.bias, qk // RUN // how.groups
    plane = PARTS * (STRETCH // qk) * groups  # where the second one begins, in units of `store_rows`

    def fill(fmt, w, start, stride, num_blocks, panel):
        for part in range(PARTS):
            for b in range(num_blocks):
                block = start + 8 * part * stride + b * type_size
                unpack_header(w, block, stride, panel, PARTS * b + part)
                for group in range(groups):
                    quants, place = unpack_quants(w, block, stride, group), PARTS * (b * groups + group) + part
                    if scales:
                        at = 2 * TILE_ROWS * scales * runs_in_group * (b * groups + group) + 16 * part
                        lower, higher = scaled_planes(offset, scales, quants, panel.scales, at)
                        store_rows(panel.q, place, lower)
                        store_rows(panel.q, plane + place, higher)
                    else:
                        store_rows(panel.q, place, without_offset(offset, quants))

    return fill


class Tokens(NamedTuple):
    """Activations of a batch of tokens as tiles take them; of the last tile's tokens some may be undefined."""

    q: np.ndarray  # (n_in / STRETCH, tiles, STRETCH / width, TOKENS, width) int8, flat
    d: np.ndarray  # (tiles, n_in / qk, TOKENS) float32, flat: side by side the scales of a block
    sums: np.ndarray  # (tiles, n_in / RUN, TOKENS) int32, flat: the two sums of a run; empty without minimums


@inlined
def arrange_tokens(x, begin, end, width, tokens):
    """Fill `tokens` from tokens `begin` to `end` of x."""
    n_in, num_blocks = x.q.shape[1], x.d.shape[1]
    num_tiles, num_runs = (end - begin + TOKENS - 1) // TOKENS, n_in // RUN
    for tile in range(num_tiles):
        token = first_token(tile, begin, end)
        for c in range(min(TOKENS, end - token)):
            for k in range(0, n_in, RUN):
                stretch, step = k // STRETCH, k % STRETCH // width
                place = (stretch * num_tiles + tile) * STRETCH + step * width
                store(tokens.q, TOKENS * place + width * c + k % width, load_i8x32(x.q, (token + c) * n_in + k))
            for b in range(num_blocks):
                tokens.d[TOKENS * (tile * num_blocks + b) + c] = x.d[token + c, b]
            if tokens.sums.size:
                for run in range(num_runs):
                    pair = load_u32(x.sums, ((token + c) * num_runs + run) * 2)
                    tokens.sums[TOKENS * (tile * num_runs + run) + c] = pair


@inlined
def first_token(tile, begin, end):
    """Of a tile; the last tile begins earlier than it might, with tokens of the one before."""
    return max(min(begin + TOKENS * tile, end - TOKENS), begin)


def multiply_panels_amx(fmt: Format) -> Callable[..., None]:
    """The function (fmt, type_size, w, x, y, first, last) for one format, to be compiled as part of `matmul`."""
    how, qk = fmt.unpacked, fmt.qk
    assert how is not None
    planes, scales, width = 1 + (how.scales > 0), max(how.scales, 1), min(qk, MOST_IN_STEP)
    steps, blocks_in_panel, runs_in_panel = qk // width, STRETCH // qk, STRETCH // RUN
    runs, factor = (qk // RUN, -1 if how.factor is None else how.factor) if how.has_minimum else (0, 0)
    plane = TILE_ROWS * STRETCH
    q_size, factors_size, d_size = planes * plane, 2 * TILE_ROWS * runs_in_panel, TILE_ROWS * blocks_in_panel
    scales_size, acc_size, sums_size = factors_size * scales, TILE_ROWS * BATCH, 2 * planes * SUMS

    multiply_narrow = inlined(multiply_panels(fmt))
    few_by_rows = how.row_quants is not None or how.quants_at >= 0
    multiply_rows: Any = multiply_rows_amx(fmt) if few_by_rows else None

    @inlined
    def multiply_tile(panel, num_blocks, tokens, x_at, d_at, acc, place, w, ahead):
        """Add the products of `num_blocks` blocks of a panel with a tile of tokens to a tile of acc.

        x_at, d_at : of tokens, where the tile's q and d begin
        w, ahead : what to prefetch meanwhile; returns what is left of it
        """
        sums, half, b = local_array(np.int32, sums_size), 0, 0
        last = HALVES * num_blocks - 1
        result = load_results(TOKENS, acc, place)
        multiply_tiles(width, steps, planes, panel.q, 0, plane, tokens.q, x_at, sums, 0)
        for i in range(last + 1):
            ahead = ask(w, ahead)
            if i < last:  # the tile registers go ahead by a block: their sums take a while to arrive
                next_half, after = (half, b + 1) if b + 1 < num_blocks else (half + 1, 0)
                q, k = TILE_ROWS * qk * after + 4 * LANES * next_half, x_at + TOKENS * qk * after
                multiply_tiles(
                    width, steps, planes, panel.q, q, plane, tokens.q, k, sums, planes * SUMS * ((i + 1) & 1)
                )
            row = TILE_ROWS * b + LANES * half
            factors_at = 2 * (TILE_ROWS * runs * b + LANES * half)
            result = add_products(
                planes, runs, factor, sums, planes * SUMS * (i & 1), panel.d, panel.dmin, row,
                panel.factors, factors_at, tokens.d, d_at + TOKENS * b, tokens.sums, result,
            )  # fmt: skip
            b += 1
            if b == num_blocks:
                store_results(acc, place + LANES * half, result)
                half, b = half + 1, 0
                if half < HALVES:
                    result = load_results(TOKENS, acc, place + LANES * half)
        return ahead

    @inlined
    def write_rows(y, begin, end, row, last, top, acc):
        """Copy elements `row` to `last` of the output from acc, where they begin with `top`."""
        n_out = y.shape[1]
        for tile in range((end - begin + TOKENS - 1) // TOKENS):
            token = first_token(tile, begin, end)
            for c in range(min(TOKENS, end - token)):
                if row + TILE_ROWS <= last:
                    store(y, (token + c) * n_out + row, load_column(acc, TILE_ROWS * (TOKENS * tile + c)))
                else:
                    for r in range(row, last):
                        y[token + c, r] = acc[TILE_ROWS * (TOKENS * tile + c) + r - top]

    def multiply(fmt, type_size, w, x, y, first, last):
        num_tokens, n_out = y.shape
        num_blocks, n_in = x.d.shape[1], x.q.shape[1]
        row_bytes = num_blocks * type_size
        if few_by_rows and FEWEST_BY_ROWS <= num_tokens < FEWEST_TOKENS and n_out >= TILE_ROWS:
            multiply_rows(w, row_bytes, x, y, first, last)
            return
        if num_tokens < FEWEST_TOKENS or n_out < TILE_ROWS:
            multiply_narrow(fmt, type_size, w, x, y, first, last)
            return
        panel = Panel(
            local_array(np.int8, q_size),
            local_array(np.int16, scales_size),
            local_array(np.int16, factors_size),
            local_array(np.float32, d_size),
            local_array(np.float32, d_size),
        )
        acc = local_array(np.float32, acc_size)
        room = min(num_tokens + TOKENS, BATCH)
        tokens = Tokens(
            np.empty(room * ((n_in + STRETCH - 1) // STRETCH * STRETCH), np.int8),
            np.empty(room * num_blocks, np.float32),
            np.empty(room * num_blocks * runs, np.int32),
        )
        configure_tiles(width)
        for begin in range(0, num_tokens, BATCH):
            end = min(begin + BATCH, num_tokens)
            num_tiles = (end - begin + TOKENS - 1) // TOKENS
            arrange_tokens(x, begin, end, width, tokens)
            for row in range(first, last, TILE_ROWS):
                top = min(row, n_out - TILE_ROWS)
                for i in range(TILE_ROWS * TOKENS * num_tiles):
                    acc[i] = 0
                for block in range(0, num_blocks, blocks_in_panel):
                    n = min(blocks_in_panel, num_blocks - block)
                    unpack_planes(fmt, w, top * row_bytes + block * type_size, row_bytes, n, panel)
                    place, size = (
                        (top + TILE_ROWS) * row_bytes + TILE_ROWS * block * type_size,
                        TILE_ROWS * type_size * n,
                    )
                    ahead = Ahead(place, place + size, size // (64 * num_tiles * n * HALVES) + 1)
                    for tile in range(num_tiles):
                        x_at = TOKENS * (block * qk * num_tiles + tile * STRETCH)
                        d_at, place = TOKENS * (tile * num_blocks + block), TILE_ROWS * TOKENS * tile
                        ahead = multiply_tile(panel, n, tokens, x_at, d_at, acc, place, w, ahead)
                write_rows(y, begin, end, row, last, top, acc)
        release_tiles()

    return multiply
