"""Rounding that minimises the error of what a matrix computes, not that of its weights.

A row w of a matrix that is stored as v is wrong by (w - v) . x for an input x. Over many inputs that costs

    (w - v) P (w - v)^T,   P the mean of x x^T.

If inputs were independent of each other, P would be diagonal and each weight best be rounded to the nearest value.
They are not: what rounding one weight has cost, the weights of columns that often go with it can make good. Scales are
given; then, for columns in blocks within which P is known,

1. weights are rounded from the first column to the last, and the columns that are still to come take over what they can
   of each error (Frantar et al. 2022, "GPTQ"). With P^-1 = U^T U, U upper triangular, column i takes U_ji / U_jj of it;
2. each weight in turn is set to the best value with all others as they are (coordinate descent), twice.

Eight rows are computed side by side, a row in each lane of a vector.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..cache import inlined, kernel
from ..simd import f32x8, fma, load_f32, load_f32x8, store_f32, store_f32x8, sum_f32x8, to_i32x8
from .search import LANES, TINY, clip_round, round_groups
from .table_search import nearest_index, nearest_value, round_to_table

__all__ = ["InputMoments", "input_moments", "round_weights", "round_weights_to_table", "round_with_feedback"]

NUM_DESCENTS = 2


class InputMoments(NamedTuple):
    """What is known of a matrix's inputs, within blocks of columns; both (n_blocks, length, length) float32."""

    products: np.ndarray  # the mean of x_i x_j
    shares: np.ndarray  # [j, i]: the part of column j's error that column i > j takes over

    @property
    def row_length(self) -> int:
        return self.products.shape[0] * self.products.shape[1]


def input_moments(products: np.ndarray) -> InputMoments:
    """Of mean products (n_blocks, length, length), positive definite; numpy.linalg.LinAlgError if they are not."""
    inverse = np.linalg.inv(products.astype(np.float64))
    upper = np.linalg.cholesky(inverse).transpose(0, 2, 1)
    shares = upper / np.diagonal(upper, axis1=1, axis2=2)[:, :, None]
    return InputMoments(*(np.ascontiguousarray(part, np.float32) for part in (products, shares)))


@inlined
def transpose_part(x, first_row, first_column, out):
    """Columns `first_column` on of rows `first_row` to `first_row` + 7 of x side by side into `out` (columns * 8,).

    Beyond the last row that one is repeated.
    """
    n_rows, n_columns = x.shape
    for lane in range(LANES):
        start = min(first_row + lane, n_rows - 1) * n_columns + first_column
        for j in range(out.size // LANES):
            store_f32(out, j * LANES + lane, load_f32(x, start + j))


@inlined
def nearest_level(v, low, high, is_table):
    """The level that is nearest to each lane: an integer within low..high, or a value of the table of IQ4."""
    return nearest_value(v) if is_table else clip_round(v, low, high)


@inlined
def add_column(factor, matrix, start, first, out):
    """out_i += factor matrix[start + i] for i from `first` on."""
    for i in range(first, out.size // LANES):
        place = i * LANES
        store_f32x8(out, place, fma(factor, f32x8(load_f32(matrix, start + i)), load_f32x8(out, place)))


@inlined
def round_in_turn(wanted, s, inverses, o, size, limits, shares, start, levels):
    """The first step: `levels` of a block. What is `wanted` of each column changes with the errors before it."""
    low, high, is_table = limits
    length = levels.size // LANES
    for j in range(length):
        at, group = j * LANES, j // size * LANES
        v, offset = load_f32x8(wanted, at), load_f32x8(o, group)
        level = nearest_level((v - offset) * load_f32x8(inverses, group), low, high, is_table)
        store_f32x8(levels, at, level)
        excess = fma(level, load_f32x8(s, group), offset) - v
        add_column(excess, shares, start + j * length, j + 1, wanted)


@inlined
def descend(s, inverses, size, limits, products, start, gradient, levels):
    """The second step, once over all columns of a block.

    gradient : for each column i, sum over j of (x_j - value of j) P_ji; follows the levels as they change
    """
    low, high, is_table = limits
    length = levels.size // LANES
    for j in range(length):
        at, group, row = j * LANES, j // size * LANES, start + j * length
        level = load_f32x8(levels, at)
        step = load_f32x8(gradient, at) / f32x8(load_f32(products, row + j))
        better = nearest_level(fma(step, load_f32x8(inverses, group), level), low, high, is_table)
        change = (level - better) * load_f32x8(s, group)
        if sum_f32x8(change * change) > 0:
            store_f32x8(levels, at, better)
            add_column(change, products, row, 0, gradient)


@inlined
def rest_of(xs, levels, s, o, j, size):
    """What column j of a block is off."""
    at, group = j * LANES, j // size * LANES
    return load_f32x8(xs, at) - fma(load_f32x8(levels, at), load_f32x8(s, group), load_f32x8(o, group))


@kernel
def round_with_feedback(x, scales, offsets, low, high, is_table, products, shares, q):
    """q (n_rows, n) int8 within low..high, or indices of IQ4's table; returns the sum of squares of what x is off.

    x : (n_rows, n) float32, n the columns of all blocks of `products` together
    scales, offsets : (n_rows, n_groups) float32, as they will be read back
    products, shares : of `InputMoments`
    """
    n_rows, n = x.shape
    n_blocks, length = products.shape[0], products.shape[1]
    size = n // scales.shape[1]
    in_block = length // size  # groups
    limits = low, high, is_table
    xs, levels = np.empty(length * LANES, np.float32), np.empty(length * LANES, np.float32)
    gradient = np.empty(length * LANES, np.float32)
    s, o = np.empty(in_block * LANES, np.float32), np.empty(in_block * LANES, np.float32)
    inverses = np.empty(in_block * LANES, np.float32)
    error = 0.0
    for block in range(n_blocks):
        start = block * length * length
        for first in range(0, n_rows, LANES):
            transpose_part(scales, first, block * in_block, s)
            transpose_part(offsets, first, block * in_block, o)
            for k in range(s.size):
                inverses[k] = np.float32(1) / s[k] if np.abs(s[k]) > TINY else np.float32(0)
            transpose_part(x, first, block * length, xs)
            round_in_turn(xs, s, inverses, o, size, limits, shares, start, levels)
            transpose_part(x, first, block * length, xs)
            gradient[:] = 0
            for j in range(length):
                add_column(rest_of(xs, levels, s, o, j, size), products, start + j * length, 0, gradient)
            for _ in range(NUM_DESCENTS):
                descend(s, inverses, size, limits, products, start, gradient, levels)
            squares = f32x8(0.0)
            lanes = min(LANES, n_rows - first)
            for j in range(length):
                rest, level = rest_of(xs, levels, s, o, j, size), load_f32x8(levels, j * LANES)
                squares = fma(rest, rest, squares)
                index = nearest_index(level) if is_table else to_i32x8(level)
                for lane in range(lanes):
                    q[first + lane, block * length + j] = index[lane]
            for lane in range(lanes):
                error += np.float64(squares[lane])
    return error


def round_weights(x, scales, offsets, low: int, high: int, q, moments: InputMoments | None) -> float:
    """As `search.round_groups`, which it is without `moments`; with them, x has the groups of whole rows."""
    limits = np.float32(low), np.float32(high)
    if moments is None:
        return round_groups(x, scales, offsets, *limits, q)
    return _by_row(x, scales, offsets, limits, q, moments, is_table=False)


def round_weights_to_table(x, scales, q, moments: InputMoments | None) -> float:
    """As `table_search.round_to_table`, likewise."""
    if moments is None:
        return round_to_table(x, scales, q)
    return _by_row(x, scales, np.zeros_like(scales), (np.float32(0), np.float32(0)), q, moments, is_table=True)


def _by_row(x, scales, offsets, limits, q, moments: InputMoments, *, is_table: bool) -> float:
    rows = x.size // moments.row_length
    x, scales, offsets, q = (part.reshape(rows, -1) for part in (x, scales, offsets, q))
    return round_with_feedback(x, scales, offsets, *limits, is_table, *moments, q)
