"""Gates of mixtures of experts: the clamped SwiGLU of gpt-oss, and a scalar gate a row."""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .exp import exp_f32x8
from .plan import row_operation
from .simd import f32x8, load_f32x8, maximum, minimum, store_f32x8

__all__ = ["clamped_swiglu", "gate_rows"]

_ALPHA, _LIMIT = np.float32(1.702), np.float32(7)


def clamped_swiglu_ref(gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """out = g sigmoid(1.702 g) (u + 1), with g = gate up to 7, u = up within -7 .. 7 (OpenAI 2025, gpt-oss)."""
    g, u = np.minimum(gate, _LIMIT), np.clip(up, -_LIMIT, _LIMIT)
    with np.errstate(over="ignore"):
        out[:] = g / (1 + np.exp(-_ALPHA * g)) * (u + 1)


@inlined
def clamped_swiglu_f32x8(gate, up):
    """NaN stays NaN: the second argument of `minimum` and `maximum` is what they return then."""
    g = minimum(f32x8(_LIMIT), gate)
    u = maximum(f32x8(-_LIMIT), minimum(f32x8(_LIMIT), up))
    return g / (f32x8(1.0) + exp_f32x8(f32x8(-_ALPHA) * g)) * (u + np.float32(1))


@row_operation(twin=clamped_swiglu_ref, elements=1024)
def clamped_swiglu(gate, up, out, first, last):
    """out (rows, n) = g sigmoid(1.702 g) (u + 1), see the twin; float32, `out` may be `gate`."""
    n = gate.shape[1]
    whole = n // 8 * 8
    for row in range(first, last):
        for k in range(0, whole, 8):
            v = clamped_swiglu_f32x8(load_f32x8(gate, row * n + k), load_f32x8(up, row * n + k))
            store_f32x8(out, row * n + k, v)
        for k in range(whole, n):
            out[row, k] = clamped_swiglu_f32x8(f32x8(gate[row, k]), f32x8(up[row, k]))[0]


def gate_rows_ref(x: np.ndarray, logits: np.ndarray) -> None:
    """x (num_rows, n) *= sigmoid of logits (num_rows, 1)."""
    with np.errstate(over="ignore"):
        x /= 1 + np.exp(-logits)


@row_operation(twin=gate_rows_ref)
def gate_rows(x, logits, first, last):
    """x (num_rows, n) *= sigmoid of logits (num_rows, 1)."""
    for row in range(first, last):
        factor = (f32x8(1.0) / (f32x8(1.0) + exp_f32x8(f32x8(-logits[row, 0]))))[0]
        for k in range(x.shape[1]):
            x[row, k] *= factor
