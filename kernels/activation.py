"""Elementwise kernels: SwiGLU, residual and bias additions."""

from __future__ import annotations

import numpy as np
from numba import prange

from .cache import kernel
from .exp import exp_f32x8
from .simd import f32x8, load_f32x8, store_f32x8


def swiglu_ref(gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """out = silu(gate) * up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, "GLU Variants Improve Transformer")."""
    with np.errstate(over="ignore"):
        out[:] = gate / (1 + np.exp(-gate)) * up


@kernel
def swiglu_row(gate, up, out, row):
    n = gate.shape[1]
    whole = n // 8 * 8
    one = f32x8(1.0)
    for k in range(0, whole, 8):
        g = load_f32x8(gate, row * n + k)
        silu = g / (one + exp_f32x8(f32x8(0.0) - g))
        store_f32x8(out, row * n + k, silu * load_f32x8(up, row * n + k))
    for k in range(whole, n):
        g = f32x8(gate[row, k])
        silu = g / (one + exp_f32x8(f32x8(0.0) - g))
        out[row, k] = silu[0] * up[row, k]


@kernel(parallel=True, twin=swiglu_ref)
def swiglu(gate, up, out):
    """out (num_tokens, hidden_dim) = silu(gate) * up; float32, `out` may be `gate`."""
    for row in prange(gate.shape[0]):
        swiglu_row(gate, up, out, row)


def add_ref(x: np.ndarray, y: np.ndarray) -> None:
    """x (num_tokens, n) += y, of the same shape or (1, n)."""
    x += y


@kernel(twin=add_ref)
def add(x, y):
    """x (num_tokens, n) += y (num_tokens, n), the residual; or y (1, n), a bias."""
    for row in range(x.shape[0]):
        source = row if y.shape[0] == x.shape[0] else 0
        for k in range(x.shape[1]):
            x[row, k] += y[source, k]
