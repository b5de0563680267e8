"""Copies of parts of rows: what lies side by side is taken apart and put together, heads and tokens change places."""

from __future__ import annotations

import numpy as np

from .plan import operation, piece, row_operation
from .simd import load_f32, store_f32

__all__ = ["copy_columns", "swap_axes"]


def copy_columns_ref(out: np.ndarray, target: int, x: np.ndarray, source: int, n: int) -> None:
    """`n` columns of out (rows, .) from column `target` on = those of x (rows, .) from column `source` on."""
    out[:, target : target + n] = x[:, source : source + n]


@row_operation(twin=copy_columns_ref)
def copy_columns(out, target, x, source, n, first, last):
    """`n` columns of out (rows, .) from column `target` on = those of x (rows, .) from column `source` on."""
    for row in range(first, last):
        to, place = row * out.shape[1] + target, row * x.shape[1] + source
        for k in range(n):
            store_f32(out, to + k, load_f32(x, place + k))


def swap_axes_ref(out: np.ndarray, target: int, x: np.ndarray, source: int, n: int) -> None:
    """As `copy_columns`, with x (a, b, .) and out (b, a, .)."""
    out[:, :, target : target + n] = x[:, :, source : source + n].swapaxes(0, 1)


@operation(tasks=lambda out, target, x, source, n: min(out.shape[0], max(1, x.size // 8192)), twin=swap_axes_ref)
def swap_axes(out, target, x, source, n, task, num_tasks):
    """As `copy_columns`, with x (a, b, .) and out (b, a, .)."""
    first, last = piece(out.shape[0], task, num_tasks)
    for i in range(first, last):
        for j in range(out.shape[1]):
            to = (i * out.shape[1] + j) * out.shape[2] + target
            place = (j * x.shape[1] + i) * x.shape[2] + source
            for k in range(n):
                store_f32(out, to + k, load_f32(x, place + k))
