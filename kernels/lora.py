"""Low-rank changes of weight matrices (LoRA, Hu et al. 2021), each token its own: y += s * (x A^T) B^T.

An adapter gives a matrix (n_out, n_in) two thin ones, A (rank, n_in) and B (n_out, rank), and a multiplier, which is
alpha / rank. Tokens of one step may use different adapters, several, or none. So a step is recorded once for all
adapters that are loaded: `Factors` tells where those of one matrix lie, and each token has the numbers of its adapters
(-1 for none), in the order in which they are added, and a scale for each.

Two operations after another: `shrink` computes h = s * (x A^T), with s the product of scale and multiplier, beside the
matrix itself; `expand` adds h B^T. The order of additions of an element depends on nothing but its adapters: element k
of a row of A goes to partial sum k mod 8 by `fma`, and the tree of `sum_f32x8` adds the eight; the products with B are
summed up by ascending rank by `fma`, and the sum is added to y. Elements of tokens without adapters are not touched.
"""

from __future__ import annotations

import ctypes
from typing import NamedTuple

import numpy as np

from .arguments import array_at
from .cache import inlined
from .plan import range_operation, row_operation
from .simd import f32x8, fma, fma_f32, load_f32, load_f32x8, store_f32x8, sum_f32x8, with_lane

ROWS = 4  # of A at once: as many sums hide the latency of each `fma`
TOKENS = 8  # that meet these rows in a task, while they are in the cache
COLUMNS = 64  # of y in a task: whole lines of the CPU's caches
_TOGETHER = 256  # tasks that a worker may take at once, divided by the tokens that they meet
_ENOUGH = 8  # or as many


class Factors(NamedTuple):
    """The factors of one matrix in each loaded adapter; those that leave it as it is have rank 0."""

    a: np.ndarray  # (num_adapters,) int64, addresses of float32 (rank, n_in); for embeddings (n_vocab, rank)
    b: np.ndarray  # (num_adapters,) int64, addresses of float32 (rank, n_out): B^T, so that columns lie side by side
    ranks: np.ndarray  # (num_adapters,) int64
    multipliers: np.ndarray  # (num_adapters,) float32


def _matrix_at(address: int, rows: int, columns: int) -> np.ndarray:
    """Twin of `array_at`: the float32 matrix at an address."""
    data = ctypes.string_at(int(address), 4 * int(rows * columns))
    return np.frombuffer(data, np.float32).reshape(rows, columns)


# ------------------------------------------------------------------------------------------------ h = s * (x A^T)


def shrink_ref(x: np.ndarray, factors: Factors, adapters: np.ndarray, scales: np.ndarray, h: np.ndarray) -> None:
    """h[token, place, : rank] = scale * multiplier * (A x[token]) for the adapter in each place of each token."""
    for token, place in np.argwhere(adapters >= 0):
        number = adapters[token, place]
        rank = factors.ranks[number]
        a = _matrix_at(factors.a[number], rank, x.shape[1])
        h[token, place, :rank] = a @ x[token] * (scales[token, place] * factors.multipliers[number])


def _num_shrinks(x: np.ndarray, factors: Factors, adapters: np.ndarray, scales: np.ndarray, h: np.ndarray) -> int:
    return -(-x.shape[0] // TOKENS) * -(-h.shape[2] // ROWS)


def _together(x: np.ndarray, *_: object) -> int:
    """Not fewer than of the matrix, beside which this runs."""
    return max(_ENOUGH, _TOGETHER // max(1, x.shape[0]))


@inlined
def dot(a, at, x, first, n):
    """Sum of a[at + k] * x[first + k]: element k in partial sum k mod 8, then the tree of `sum_f32x8`."""
    acc = f32x8(0.0)
    whole = n // 8 * 8
    for k in range(0, whole, 8):
        acc = fma(load_f32x8(a, at + k), load_f32x8(x, first + k), acc)
    return finish_dot(acc, a, at, x, first, n)


@inlined
def finish_dot(acc, a, at, x, first, n):
    """Add the last elements, fewer than eight, to the partial sums, and these to each other."""
    whole = n // 8 * 8
    for k in range(whole, n):
        lane = fma_f32(load_f32(a, at + k), load_f32(x, first + k), acc[k - whole])
        acc = with_lane(acc, k - whole, lane)
    return sum_f32x8(acc)


@inlined
def four_dots(a, at, x, first, n):
    """The same for four rows of n elements, one after the other in `a`."""
    b, c, d = at + n, at + 2 * n, at + 3 * n
    acc_a = acc_b = acc_c = acc_d = f32x8(0.0)
    for k in range(0, n // 8 * 8, 8):
        v = load_f32x8(x, first + k)
        acc_a = fma(load_f32x8(a, at + k), v, acc_a)
        acc_b = fma(load_f32x8(a, b + k), v, acc_b)
        acc_c = fma(load_f32x8(a, c + k), v, acc_c)
        acc_d = fma(load_f32x8(a, d + k), v, acc_d)
    return (
        finish_dot(acc_a, a, at, x, first, n),
        finish_dot(acc_b, a, b, x, first, n),
        finish_dot(acc_c, a, c, x, first, n),
        finish_dot(acc_d, a, d, x, first, n),
    )


@inlined
def shrink_rows(x, token, address, rank, row, scale, h, place):
    """The part of `shrink` that belongs to one adapter of one token, and to ROWS rows of A from `row` on."""
    n = x.shape[1]
    a = array_at(address, rank * n, np.float32)
    if row + ROWS <= rank:
        sums = four_dots(a, row * n, x, token * n, n)
        for r in range(ROWS):
            h[token, place, row + r] = sums[r] * scale
    else:
        for r in range(row, rank):
            h[token, place, r] = dot(a, r * n, x, token * n, n) * scale


@range_operation(tasks=_num_shrinks, together=_together, twin=shrink_ref)
def shrink(x, factors, adapters, scales, h, first, last):
    """h (num_tokens, num_places, max_rank) = s * (x A^T) of x (num_tokens, n_in).

    adapters, scales (num_tokens, num_places) : int32 and float32; -1 is no adapter, and leaves its part of h undefined
    """
    groups = (h.shape[2] + ROWS - 1) // ROWS
    for task in range(first, last):
        begin, row = task // groups * TOKENS, task % groups * ROWS
        for token in range(begin, min(begin + TOKENS, x.shape[0])):
            for place in range(adapters.shape[1]):
                number = adapters[token, place]
                if number >= 0:
                    scale = scales[token, place] * factors.multipliers[number]
                    shrink_rows(x, token, factors.a[number], factors.ranks[number], row, scale, h, place)


def pick_ref(ids: np.ndarray, factors: Factors, adapters: np.ndarray, scales: np.ndarray, h: np.ndarray) -> None:
    """h[token, place, : rank] = scale * multiplier * row `ids[token]` of A (n_vocab, rank)."""
    for token, place in np.argwhere(adapters >= 0):
        number = adapters[token, place]
        rank = factors.ranks[number]
        row = _matrix_at(factors.a[number] + 4 * rank * int(ids[token]), 1, rank)[0]
        h[token, place, :rank] = row * (scales[token, place] * factors.multipliers[number])


@row_operation(twin=pick_ref, array=lambda ids, factors, adapters, scales, h: h)
def pick(ids, factors, adapters, scales, h, first, last):
    """What `shrink` computes, for embeddings: x is 1 at the token's id (num_tokens,), so A x is a column of A."""
    for token in range(first, last):
        for place in range(adapters.shape[1]):
            number = adapters[token, place]
            if number < 0:
                continue
            rank, scale = factors.ranks[number], scales[token, place] * factors.multipliers[number]
            at = ids[token] * rank
            a = array_at(factors.a[number], at + rank, np.float32)
            for r in range(rank):
                h[token, place, r] = load_f32(a, at + r) * scale


# ------------------------------------------------------------------------------------------------ y += h B^T


def expand_ref(h: np.ndarray, factors: Factors, adapters: np.ndarray, y: np.ndarray) -> None:
    """y[token] += h[token, place, : rank] B^T for the adapter in each place of each token."""
    for token, place in np.argwhere(adapters >= 0):
        number = adapters[token, place]
        rank = factors.ranks[number]
        y[token] += h[token, place, :rank] @ _matrix_at(factors.b[number], rank, y.shape[1])


def _num_expands(h: np.ndarray, factors: Factors, adapters: np.ndarray, y: np.ndarray) -> int:
    return -(-y.shape[1] // COLUMNS) if y.size else 0


@inlined
def expand_columns(h, token, place, b, rank, y, column, end):
    """Add to the elements `column` to `end` of a token's y: 32 at once, then 8, then one."""
    n, to = y.shape[1], token * y.shape[1]
    while column + 32 <= end:
        p = q = r = s = f32x8(0.0)
        for k in range(rank):
            v, at = f32x8(h[token, place, k]), k * n + column
            p = fma(load_f32x8(b, at), v, p)
            q = fma(load_f32x8(b, at + 8), v, q)
            r = fma(load_f32x8(b, at + 16), v, r)
            s = fma(load_f32x8(b, at + 24), v, s)
        store_f32x8(y, to + column, load_f32x8(y, to + column) + p)
        store_f32x8(y, to + column + 8, load_f32x8(y, to + column + 8) + q)
        store_f32x8(y, to + column + 16, load_f32x8(y, to + column + 16) + r)
        store_f32x8(y, to + column + 24, load_f32x8(y, to + column + 24) + s)
        column += 32
    while column + 8 <= end:
        p = f32x8(0.0)
        for k in range(rank):
            p = fma(load_f32x8(b, k * n + column), f32x8(h[token, place, k]), p)
        store_f32x8(y, to + column, load_f32x8(y, to + column) + p)
        column += 8
    while column < end:
        total = np.float32(0)
        for k in range(rank):
            total = fma_f32(load_f32(b, k * n + column), h[token, place, k], total)
        y[token, column] += total
        column += 1


@range_operation(tasks=_num_expands, together=_together, twin=expand_ref)
def expand(h, factors, adapters, y, first, last):
    """y (num_tokens, n_out) += h B^T, with what `shrink` or `pick` left in h (num_tokens, num_places, max_rank)."""
    n = y.shape[1]
    for token in range(y.shape[0]):
        for place in range(adapters.shape[1]):
            number = adapters[token, place]
            if number < 0 or factors.ranks[number] == 0:
                continue
            rank = factors.ranks[number]
            b = array_at(factors.b[number], rank * n, np.float32)
            expand_columns(h, token, place, b, rank, y, first * COLUMNS, min(last * COLUMNS, n))
