"""Simple kernels over rows: SwiGLU, residual and bias additions, picking rows."""

from __future__ import annotations

import numpy as np

from .exp import exp_f32x8
from .plan import operation, piece, row_operation
from .simd import f32x8, load_f32, load_f32x8, store_f32x8


def swiglu_ref(gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """out = silu(gate) * up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve Transformer")."""
    with np.errstate(over="ignore"):
        out[:] = gate / (1 + np.exp(-gate)) * up


@row_operation(twin=swiglu_ref, elements=1024)
def swiglu(gate, up, out, first, last):
    """out (rows, n) = silu(gate) * up; float32, `out` may be `gate`."""
    n = gate.shape[1]
    whole = n // 8 * 8
    one = f32x8(1.0)
    for row in range(first, last):
        for k in range(0, whole, 8):
            g = load_f32x8(gate, row * n + k)
            silu = g / (one + exp_f32x8(f32x8(0.0) - g))
            store_f32x8(out, row * n + k, silu * load_f32x8(up, row * n + k))
        for k in range(whole, n):
            g = f32x8(gate[row, k])
            silu = g / (one + exp_f32x8(f32x8(0.0) - g))
            out[row, k] = silu[0] * up[row, k]


def add_ref(x: np.ndarray, y: np.ndarray) -> None:
    """x (num_tokens, n) += y, of the same shape or (1, n)."""
    x += y


@row_operation(twin=add_ref)
def add(x, y, first, last):
    """x (num_tokens, n) += y (num_tokens, n), the residual; or y (1, n), a bias."""
    n = x.shape[1]
    whole = n // 8 * 8
    for row in range(first, last):
        source = row * n if y.shape[0] == x.shape[0] else 0
        for k in range(0, whole, 8):
            store_f32x8(x, row * n + k, load_f32x8(x, row * n + k) + load_f32x8(y, source + k))
        for k in range(whole, n):
            x[row, k] += load_f32(y, source + k)


def take_rows_ref(x: np.ndarray, indices: np.ndarray, out: np.ndarray) -> None:
    """out (len(indices), n) = the rows `indices` of x (num_tokens, n)."""
    out[:] = x[indices]


@operation(tasks=lambda x, indices, out: min(out.shape[0], max(1, out.size // 8192)), twin=take_rows_ref)
def take_rows(x, indices, out, task, num_tasks):
    """out (len(indices), n) = the rows `indices` of x (num_tokens, n)."""
    first_row, last_row = piece(indices.size, task, num_tasks)
    for row in range(first_row, last_row):
        source = indices[row]
        for k in range(x.shape[1]):
            out[row, k] = x[source, k]
