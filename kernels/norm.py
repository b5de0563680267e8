"""Norms of rows: RMSNorm (Zhang and Sennrich 2019) and LayerNorm (Ba et al. 2016).

RMSNorm is x / sqrt(mean(x^2) + epsilon), times a weight per element. LayerNorm takes the mean from x first, and adds a
bias per element at the end. Sums are taken in one order, whatever else is computed.
"""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .plan import row_operation
from .simd import f32x8, fma, fma_f32, load_f32, load_f32x8, store_f32, store_f32x8, sum_f32x8, with_lane


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


def layer_norm_ref(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, epsilon: float, out: np.ndarray) -> None:
    """out (rows, n) = x (rows, n) with mean 0 and variance 1, times weight (n,), plus bias (n,)."""
    centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
    variance = (centred**2).mean(-1, keepdims=True)
    out[:] = centred / np.sqrt(variance + epsilon) * weight + bias


@inlined
def sum_of_row(x, first, n):
    """Sum of x[first : first + n], in the order of `sum_of_squares`."""
    acc = f32x8(0.0)
    whole = n // 8 * 8
    for k in range(0, whole, 8):
        acc += load_f32x8(x, first + k)
    for k in range(whole, n):
        acc = with_lane(acc, k - whole, acc[k - whole] + load_f32(x, first + k))
    return sum_f32x8(acc)


@inlined
def subtract(x, first, n, value, out):
    """out[first : first + n] = x[first : first + n] - value."""
    whole = n // 8 * 8
    for k in range(first, first + whole, 8):
        store_f32x8(out, k, load_f32x8(x, k) - value)
    for k in range(first + whole, first + n):
        store_f32(out, k, load_f32(x, k) - value)


@row_operation(twin=layer_norm_ref)
def layer_norm(x, weight, bias, epsilon, out, first_row, last_row):
    """out (rows, n) = LayerNorm of each row of x (rows, n) with weight (n,) and bias (n,); float32, `out` may be `x`.

    The variance is that of what is left when the mean is gone: the mean of squares less the square of the mean would
    lose its digits in rows far from zero.
    """
    n = weight.size
    whole = n // 8 * 8
    for row in range(first_row, last_row):
        first = row * n
        subtract(x, first, n, sum_of_row(x, first, n) / np.float32(n), out)
        variance = sum_of_squares(out, first, n) / np.float32(n)
        scale = np.float32(1) / np.sqrt(variance + epsilon)
        for k in range(0, whole, 8):
            normal = load_f32x8(out, first + k) * scale
            store_f32x8(out, first + k, fma(normal, load_f32x8(weight, k), load_f32x8(bias, k)))
        for k in range(whole, n):
            out[row, k] = fma_f32(load_f32(out, first + k) * scale, load_f32(weight, k), load_f32(bias, k))
