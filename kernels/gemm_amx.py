"""Products of panels by tile registers (AMX): the form of `matmul` for quantized weights where the CPU has them.

As in `gemm`, lane = row, with the same exact integers and the same order of float operations: the same bits. What a
tile register adds up has no scales in it. Blocks of 32 elements have none within, and are one instruction. In blocks
of 256 each run has an integer scale, so a panel holds scale * (q - offset), which is exact, as two bytes: the sum of a
whole block is made of two sums that stay in tile registers for all its elements.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba.extending import overload

from .ahead import ask, plan_ahead
from .cache import INLINED_OPTIONS, inlined
from .formats.base import Format
from .gemm import multiply_panels
from .gemv_amx import FEWEST_TOKENS as FEWEST_BY_ROWS
from .gemv_amx import multiply_rows_amx
from .panel import RUN, Panel, Unpacked
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
    BYTES,
    LANES,
    SMALL,
    SUMS,
    TOKENS,
    add_products,
    add_scaled_products,
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
# How long a run of 16 rows, or a whole block with scales, takes with a tile of tokens; the unit is a run of eight rows
# that is unpacked. Of the latter a part only: what is asked for at once must not be too much.
RUN_WORK, SCALED_WORK = 2, 8
MOST_IN_STEP = 64  # elements that a tile register takes of each token


def radix_of(how: Unpacked) -> int:
    """Which planes of products of quants and scales a format's panels hold; 0 for a plane of quants alone."""
    if not how.scales:
        return 0
    return SMALL if how.has_minimum else BYTES  # what has minimums is unsigned


def unpack_planes(fmt, w, start, stride, num_blocks, panel, ahead):
    """Compiled code only: as `gemm.unpack_panel`, with integer scales multiplied in: one or two planes of bytes.

    ahead : what to prefetch meanwhile; returns what is left of it
    """


@overload(unpack_planes, jit_options=INLINED_OPTIONS)
def _unpack_planes(fmt, w, start, stride, num_blocks, panel, ahead):
    how, type_size, qk = fmt.format.unpacked, fmt.format.type_size, fmt.format.qk
    unpack_header, unpack_quants, groups = how.unpack_header, how.unpack_quants, how.groups
    scales, offset, runs_in_group = how.scales, how.offset or how.bias, qk // RUN // how.groups
    radix, plane = radix_of(how), PARTS * (STRETCH // qk) * groups  # the second one begins there, for `store_rows`

    def fill(fmt, w, start, stride, num_blocks, panel, ahead):
        for part in range(PARTS):
            for b in range(num_blocks):
                block = start + 8 * part * stride + b * type_size
                unpack_header(w, block, stride, panel, PARTS * b + part)
                for group in range(groups):
                    ahead = ask(w, ahead, ahead.unpacking)
                    quants, place = unpack_quants(w, block, stride, group), PARTS * (b * groups + group) + part
                    if scales:
                        at = 2 * TILE_ROWS * scales * runs_in_group * (b * groups + group) + 16 * part
                        lower, higher = scaled_planes(radix, offset, scales, quants, panel.scales, at)
                        store_rows(panel.q, place, lower)
                        store_rows(panel.q, plane + place, higher)
                    else:
                        store_rows(panel.q, place, without_offset(offset, quants))
        return ahead

    return fill


class Tokens(NamedTuple):
    """Activations of a batch of tokens as tiles take them; of the last tile's tokens some may be undefined."""

    q: np.ndarray  # (n_in / STRETCH, tiles, STRETCH / width, TOKENS, width) int8, flat
    d: np.ndarray  # (tiles, n_in / qk, TOKENS) float32, flat: side by side the scales of a block
    sums: np.ndarray  # int32 of two int16 each, (tiles, n_in / qk, TOKENS, pairs), flat; empty without minimums
    # A pair is the two sums of a run; or those of two whole runs, where both parts of a run have the same factor.


@inlined
def sum_pair(x, token, pair, whole_runs):
    """Pair number `pair` of a token's sums, see `Tokens`."""
    if not whole_runs:
        return load_u32(x.sums, (token * x.sums.shape[1]) + 2 * pair)
    first = 4 * pair
    low = np.int32(x.sums[token, first]) + np.int32(x.sums[token, first + 1])
    high = np.int32(x.sums[token, first + 2]) + np.int32(x.sums[token, first + 3])
    return np.uint32(low & 0xFFFF | high << 16)


@inlined
def arrange_tokens(x, begin, end, width, pairs, whole_runs, tokens):
    """Fill `tokens` from tokens `begin` to `end` of x; `pairs` of sums in a block."""
    n_in, num_blocks = x.q.shape[1], x.d.shape[1]
    num_tiles = (end - begin + TOKENS - 1) // TOKENS
    for tile in range(num_tiles):
        token = first_token(tile, begin, end)
        for c in range(min(TOKENS, end - token)):
            for k in range(0, n_in, RUN):
                stretch, step = k // STRETCH, k % STRETCH // width
                place = (stretch * num_tiles + tile) * STRETCH + step * width
                store(tokens.q, TOKENS * place + width * c + k % width, load_i8x32(x.q, (token + c) * n_in + k))
            for b in range(num_blocks):
                tokens.d[TOKENS * (tile * num_blocks + b) + c] = x.d[token + c, b]
            for b in range(num_blocks):
                for pair in range(pairs):
                    place = (TOKENS * (tile * num_blocks + b) + c) * pairs + pair
                    tokens.sums[place] = sum_pair(x, token + c, b * pairs + pair, whole_runs)


@inlined
def first_token(tile, begin, end):
    """Of a tile; the last tile begins earlier than it might, with tokens of the one before."""
    return max(min(begin + TOKENS * tile, end - TOKENS), begin)


def multiply_panels_amx(fmt: Format) -> Callable[..., None]:
    """The function (fmt, type_size, w, x, y, first, last) for one format, to be compiled as part of `matmul`."""
    how, qk = fmt.unpacked, fmt.qk
    assert how is not None
    radix, scales, width = radix_of(how), max(how.scales, 1), min(qk, MOST_IN_STEP)
    planes = 2 if radix else 1
    steps, blocks_in_panel, runs_in_panel = qk // width, STRETCH // qk, STRETCH // RUN
    has_minimum, factor, runs = how.has_minimum, how.factor or 0, qk // RUN
    plane = TILE_ROWS * STRETCH
    q_size, factors_size, d_size = planes * plane, 2 * TILE_ROWS * runs_in_panel, TILE_ROWS * blocks_in_panel
    scales_size, acc_size, of_tile = factors_size * scales, TILE_ROWS * BATCH, HALVES * planes * SUMS
    whole_runs = how.scales == 1  # each run has one minimum
    pairs = (runs // 2 if whole_runs else runs) if has_minimum else 0  # of sums in a block
    sums_size = 2 * of_tile

    multiply_narrow = inlined(multiply_panels(fmt))
    few_by_rows = how.row_quants is not None or how.quants_at >= 0
    fewest = FEWEST_BY_ROWS if few_by_rows else FEWEST_TOKENS
    groups, work = how.groups, SCALED_WORK if radix else RUN_WORK
    multiply_rows: Any = multiply_rows_amx(fmt) if few_by_rows else None

    @inlined
    def multiply_runs(panel, num_blocks, block, num_all, tokens, num_tiles, acc, w, ahead):
        """Add the products of a panel with all tiles of tokens to acc: blocks of one run, without scales.

        block, num_all : of the row's blocks the one at which the panel begins, and how many there are
        w, ahead : what to prefetch meanwhile
        """
        sums = local_array(np.int32, sums_size)
        last = HALVES * num_blocks - 1
        for tile in range(num_tiles):
            x_at, d_at = TOKENS * (block * qk * num_tiles + tile * STRETCH), TOKENS * (tile * num_all + block)
            half, b, place = 0, 0, TILE_ROWS * TOKENS * tile
            result = load_results(TOKENS, acc, place)
            multiply_tiles(1, width, steps, radix, panel.q, 0, plane, tokens.q, x_at, sums, 0)
            for i in range(last + 1):
                ahead = ask(w, ahead, ahead.multiplying)
                if i < last:  # the tile registers go ahead by a block: their sums take a while to arrive
                    next_half, after = (half, b + 1) if b + 1 < num_blocks else (half + 1, 0)
                    q, k = TILE_ROWS * qk * after + 4 * LANES * next_half, x_at + TOKENS * qk * after
                    multiply_tiles(1, width, steps, radix, panel.q, q, plane, tokens.q, k, sums, SUMS * ((i + 1) & 1))
                row = TILE_ROWS * b + LANES * half
                result = add_products(
                    has_minimum, factor, sums, SUMS * (i & 1), panel.d, panel.dmin, row,
                    tokens.d, d_at + TOKENS * b, tokens.sums, result,
                )  # fmt: skip
                b += 1
                if b == num_blocks:
                    store_results(acc, place + LANES * half, result)
                    half, b = half + 1, 0
                    if half < HALVES:
                        result = load_results(TOKENS, acc, place + LANES * half)

    @inlined
    def multiply_scaled_tile(panel, tile, block, tokens, num_tiles, sums):
        """Begin the products of a panel with a tile of tokens."""
        x_at, first = TOKENS * (block * qk * num_tiles + STRETCH * tile), of_tile * (tile & 1)
        multiply_tiles(HALVES, width, steps, radix, panel.q, 0, plane, tokens.q, x_at, sums, first)

    @inlined
    def multiply_scaled(panel, num_blocks, block, num_all, tokens, num_tiles, acc, w, ahead):
        """The same for blocks of several runs with scales: a panel has one block of each row."""
        sums = local_array(np.int32, sums_size)
        multiply_scaled_tile(panel, 0, block, tokens, num_tiles, sums)
        for tile in range(num_tiles):
            ahead = ask(w, ahead, ahead.multiplying)
            if tile + 1 < num_tiles:
                multiply_scaled_tile(panel, tile + 1, block, tokens, num_tiles, sums)
            of_block = TOKENS * (tile * num_all + block)
            add_scaled_products(
                radix, pairs, sums, of_tile * (tile & 1), panel.factors, tokens.sums, pairs * of_block,
                panel.d, panel.dmin, tokens.d, of_block, acc, TILE_ROWS * TOKENS * tile,
            )  # fmt: skip

    multiply_panel = multiply_scaled if radix else multiply_runs

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
        if num_tokens < fewest or n_out < TILE_ROWS:
            multiply_narrow(fmt, type_size, w, x, y, first, last)
            return
        if few_by_rows and num_tokens < FEWEST_TOKENS:
            multiply_rows(w, row_bytes, x, y, first, last)
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
            np.empty(room * num_blocks * pairs, np.int32),
        )
        configure_tiles(width)
        for begin in range(0, num_tokens, BATCH):
            end = min(begin + BATCH, num_tokens)
            num_tiles = (end - begin + TOKENS - 1) // TOKENS
            arrange_tokens(x, begin, end, width, pairs, whole_runs, tokens)
            for row in range(first, last, TILE_ROWS):
                top = min(row, n_out - TILE_ROWS)
                for i in range(TILE_ROWS * TOKENS * num_tiles):
                    acc[i] = 0
                for block in range(0, num_blocks, blocks_in_panel):
                    n = min(blocks_in_panel, num_blocks - block)
                    place, size = (
                        (top + TILE_ROWS) * row_bytes + TILE_ROWS * block * type_size,
                        TILE_ROWS * type_size * n,
                    )
                    asks, multiplied = n * PARTS * groups, num_tiles * (1 if radix else HALVES * n)
                    ahead = plan_ahead(place, size, (asks, n * runs * PARTS), (multiplied, multiplied * work))
                    start = top * row_bytes + block * type_size
                    ahead = unpack_planes(fmt, w, start, row_bytes, n, panel, ahead)
                    multiply_panel(panel, n, block, num_blocks, tokens, num_tiles, acc, w, ahead)
                write_rows(y, begin, end, row, last, top, acc)
        release_tiles()

    return multiply
