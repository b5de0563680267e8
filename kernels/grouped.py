"""Products of rows with matrices of which each group of rows has its own: experts, or the heads of attention.

Many matrices of one shape lie in one tensor. Rows that belong to the same matrix are neighbours (`routing.Groups`), and
meet it by the kernels of `matmul`, a group at a time. Matrices without rows are not read. How many rows a group has is
known only when the step runs; the pieces of work are the same for any groups, and some may turn out to be empty.
"""

from __future__ import annotations

import itertools

import numpy as np
from numba import types
from numba.extending import overload

from .cache import INLINED_OPTIONS
from .formats import Q8, Format
from .matmul import ROWS, matmul_ref, multiply
from .plan import range_operation
from .simd_types import HAS_TILES

__all__ = ["grouped_matmul", "grouped_matmul_ref"]

_TOGETHER = 256  # groups of ROWS rows that a worker may take at once, divided by the rows of x that they meet
_ENOUGH = 8 if HAS_TILES else 1  # or as many: it arranges its rows of x once


def rows_of(x, first, last):
    """Rows `first` to `last` of x, float32 (num_rows, n_in) or `Q8`."""
    return Q8(*(part[first:last] for part in x)) if isinstance(x, Q8) else x[first:last]


@overload(rows_of, jit_options=INLINED_OPTIONS)
def _rows_of(x, first, last):
    if isinstance(x, types.Array):
        return lambda x, first, last: x[first:last]
    return lambda x, first, last: Q8(x.q[first:last], x.d[first:last], x.sums[first:last])


def grouped_matmul_ref(
    fmt: Format,
    type_size: int,
    w: np.ndarray,
    stride: int,
    x: np.ndarray | Q8,
    starts: np.ndarray,
    owners: np.ndarray,
    y: np.ndarray,
) -> None:
    """The twin of `grouped_matmul`."""
    num_bytes = y.shape[1] * (x.q if isinstance(x, Q8) else x).shape[1] // fmt.qk * type_size
    for first, last in itertools.pairwise(starts):
        if first < last:
            start = int(owners[first]) * stride
            matmul_ref(fmt, type_size, w[start : start + num_bytes], rows_of(x, first, last), y[first:last])


def _pieces(fmt, type_size, w, stride, x, starts, owners, y) -> int:
    return (starts.size - 1) * -(-y.shape[1] // ROWS) if y.size else 0


def _pieces_together(fmt, type_size, w, stride, x, starts, owners, y) -> int:
    """As in `matmul`, for groups of average size."""
    return max(_ENOUGH, _TOGETHER * (starts.size - 1) // max(1, y.shape[0]))


@range_operation(tasks=_pieces, together=_pieces_together, twin=grouped_matmul_ref)
def grouped_matmul(fmt, type_size, w, stride, x, starts, owners, y, first, last):
    """y (num_rows, n_out) = x W^T, where rows starts[i] to starts[i + 1] take matrix owners[starts[i]].

    w : bytes of matrices of format `fmt`, which begin `stride` bytes apart; blocks have `type_size` bytes
    x : `Q8` of the format's group, or float32 (num_rows, n_in) for float formats
    starts, owners : int32 (num_groups + 1,) and (num_rows,); groups may be empty
    """
    n_out = y.shape[1]
    in_matrix = (n_out + ROWS - 1) // ROWS  # pieces
    while first < last:
        group = first // in_matrix
        end = min(last, (group + 1) * in_matrix)
        begin, behind = starts[group], starts[group + 1]
        if begin < behind:
            start, row = owners[begin] * stride, (first - group * in_matrix) * ROWS
            multiply(
                fmt,
                type_size,
                w[start : start + stride],
                rows_of(x, begin, behind),
                y[begin:behind],
                row,
                min((end - group * in_matrix) * ROWS, n_out),
            )
        first = end
