"""RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + epsilon), times a weight per element."""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .plan import row_operation
from .simd import f32x8, fma, fma_f32, load_f32, load_f32x8, store_f32x8, sum_f32x8, with_lane


def rms_norm_ref(x: np.ndarray, weight: np.ndarray, epsilon: float, out: np.ndarray) -> None:
    """out (rows, n) = x (rows, n) normalised, times weight (n,)."""
    mean = (x.astype(np.float64) ** 2).mean(-1, keepdims=True)
    out[:] = x / np.sqrt(mean + epsilon) * weight


@inlined
def sum_of_squares(x, first, n):
    """Sum of x[first : first + n]^2: element k in partial sum k mod 8, then the tree of `sum_f32x8`."""
    acc = f32x8(0.0)
    whole = n // 8 * 8
    for k in range(0, whole, 8):
        v = load_f32x8(x, first + k)
        acc = fma(v, v, acc)
    for k in range(whole, n):
        v = load_f32(x, first + k)
        acc = with_lane(acc, k - whole, fma_f32(v, v, acc[k - whole]))
    return sum_f32x8(acc)


@row_operation(twin=rms_norm_ref)
def rms_norm(x, weight, epsilon, out, first_row, last_row):
    """out (rows, n) = RMSNorm of each row of x (rows, n) with weight (n,); float32, `out` may be `x`."""
    n = weight.size
    whole = n // 8 * 8
    for row in range(first_row, last_row):
        first = row * n
        mean = sum_of_squares(x, first, n) / np.float32(n)
        scale = np.float32(1) / np.sqrt(mean + epsilon)
        for k in range(0, whole, 8):
            store_f32x8(out, first + k, load_f32x8(x, first + k) * scale * load_f32x8(weight, k))
        for k in range(whole, n):
            out[row, k] = x[row, k] * scale * weight[k]
