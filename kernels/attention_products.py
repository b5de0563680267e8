"""The product of attention: rows of x times a matrix y, added to sums in memory.

Queries times keys and weights times values are the same product: of a few rows, with a matrix that lies in the cache.
Each number of rows has machine code of its own, in which as many sums stay in registers as there is room for.
"""

from __future__ import annotations

from .cache import inlined, outlined
from .simd_products import HAS_WIDE_REGISTERS, moved, multiply_rows

MOST_ROWS = 8 if HAS_WIDE_REGISTERS else 6  # more would run out of registers


@outlined
def multiply_some(rows, x, y, ahead, count, out, columns):
    """Up to MOST_ROWS rows; of fewer rows more columns are computed at once, to keep the multiplier busy."""
    if rows == 1:
        done = multiply_rows(1, 32, x, y, ahead, count, out, columns)
    elif rows == 2:
        done = multiply_rows(2, 32, x, y, ahead, count, out, columns)
    elif rows == 3:
        done = multiply_rows(3, 32, x, y, ahead, count, out, columns)
    elif rows == 4:
        done = multiply_rows(4, 16, x, y, ahead, count, out, columns)
    elif rows == 5:
        done = multiply_rows(5, 16, x, y, ahead, count, out, columns)
    elif rows == 6:
        done = multiply_rows(6, 16, x, y, ahead, count, out, columns)
    elif HAS_WIDE_REGISTERS and rows == 7:
        done = multiply_rows(7, 16, x, y, ahead, count, out, columns)
    elif HAS_WIDE_REGISTERS:
        done = multiply_rows(8, 16, x, y, ahead, count, out, columns)
    else:
        done = columns
    if done < columns:
        multiply_rest(rows, x, moved(y, 0, done), ahead, count, moved(out, 0, done), columns - done)


@outlined
def multiply_rest(rows, x, y, ahead, count, out, columns):
    """The last columns of a matrix whose number of columns is odd."""
    for r in range(rows):
        x_row, out_row = moved(x, r, 0), moved(out, r, 0)
        done = multiply_rows(1, 16, x_row, y, ahead, count, out_row, columns)
        multiply_rows(1, 8, x_row, moved(y, 0, done), ahead, count, moved(out_row, 0, done), columns - done)


@inlined
def multiply(x, y, ahead, count, out, num_rows, columns):
    """out[: num_rows, : columns] += x[: num_rows, : count] @ y[: count, : columns]; columns: a multiple of 8.

    x, y, out : matrices; ahead : one like y that will be needed soon
    """
    row = 0
    while row < num_rows:
        left = num_rows - row
        rows = left if left <= MOST_ROWS else (left + 1) // 2 if left < 2 * MOST_ROWS else MOST_ROWS
        multiply_some(rows, moved(x, row, 0), y, ahead, count, moved(out, row, 0), columns)
        row += rows
