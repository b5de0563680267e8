"""Simple kernels over rows: activations, plain and gated, soft caps, residual and bias additions, picking rows."""

from __future__ import annotations

import math

import numpy as np

from .cache import inlined
from .exp import exp_f32x8, tanh_f32x8, upper_tail_f32x8
from .plan import operation, piece, row_operation
from .simd import as_f32, as_i32, f32x8, fma, load_f32, load_f32x8, maximum, minimum, store_f32, store_f32x8


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


_CUBIC = np.float32(0.044715)
_GELU = np.float32(2 * np.sqrt(2 / np.pi))
_MAGNITUDE = 0x7FFFFFFF  # bits of a float32
_FAR = np.float32(13)
_erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_of(x: np.ndarray) -> np.ndarray:
    """GELU by tanh (Hendrycks and Gimpel 2016): x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def gelu_erf_of(x: np.ndarray) -> np.ndarray:
    """GELU itself (Hendrycks and Gimpel 2016): x times the normal distribution, x / 2 (1 + erf(x / sqrt 2))."""
    return x / 2 * (1 + _erf(x / np.sqrt(2)))


@inlined
def gelu_f32x8(x):
    """x / (1 + exp(-2 u)), which is x / 2 (1 + tanh(u)) without a difference of like numbers."""
    u = x * fma(x * x, f32x8(_CUBIC), f32x8(1.0)) * _GELU
    return x / (exp_f32x8(f32x8(0.0) - u) + np.float32(1))


@inlined
def gelu_erf_f32x8(x):
    """max(x, 0) - |x| Q(|x|), with Q the upper tail of the normal distribution: no difference of like numbers."""
    magnitude = minimum(f32x8(_FAR), as_f32(as_i32(x) & _MAGNITUDE))  # beyond, infinity included, nothing is left
    return maximum(f32x8(0.0), x) - magnitude * upper_tail_f32x8(magnitude)


def gelu_ref(x: np.ndarray) -> None:
    """x = gelu(x), by tanh."""
    x[:] = gelu_of(x)


@row_operation(twin=gelu_ref, elements=1024)
def gelu(x, first, last):
    """x (rows, n) = gelu(x), by tanh; float32."""
    n = x.shape[1]
    whole = n // 8 * 8
    for row in range(first, last):
        for k in range(row * n, row * n + whole, 8):
            store_f32x8(x, k, gelu_f32x8(load_f32x8(x, k)))
        for k in range(row * n + whole, (row + 1) * n):
            store_f32(x, k, gelu_f32x8(f32x8(load_f32(x, k)))[0])


def gelu_erf_ref(x: np.ndarray) -> None:
    """x = gelu(x), by erf."""
    x[:] = gelu_erf_of(x)


@row_operation(twin=gelu_erf_ref, elements=1024)
def gelu_erf(x, first, last):
    """x (rows, n) = gelu(x), by erf; float32."""
    n = x.shape[1]
    whole = n // 8 * 8
    for row in range(first, last):
        for k in range(row * n, row * n + whole, 8):
            store_f32x8(x, k, gelu_erf_f32x8(load_f32x8(x, k)))
        for k in range(row * n + whole, (row + 1) * n):
            store_f32(x, k, gelu_erf_f32x8(f32x8(load_f32(x, k)))[0])


def geglu_ref(gate: np.ndarray, up: np.ndarray, out: np.ndarray) -> None:
    """out = gelu(gate) * up (Shazeer 2020), by tanh."""
    out[:] = gelu_of(gate) * up


@row_operation(twin=geglu_ref, elements=1024)
def geglu(gate, up, out, first, last):
    """out (rows, n) = gelu(gate) * up, with gelu by tanh; float32, `out` may be `gate`."""
    n = gate.shape[1]
    whole = n // 8 * 8
    for row in range(first, last):
        for k in range(0, whole, 8):
            store_f32x8(out, row * n + k, gelu_f32x8(load_f32x8(gate, row * n + k)) * load_f32x8(up, row * n + k))
        for k in range(whole, n):
            out[row, k] = gelu_f32x8(f32x8(gate[row, k]))[0] * up[row, k]


def multiply_ref(x: np.ndarray, y: np.ndarray) -> None:
    """x (num_tokens, n) *= y, of the same shape or (1, n)."""
    x *= y


@row_operation(twin=multiply_ref)
def multiply(x, y, first, last):
    """x (num_tokens, n) *= y (num_tokens, n), a gate; or y (1, n), a factor of each element."""
    n = x.shape[1]
    whole = n // 8 * 8
    for row in range(first, last):
        source = row * n if y.shape[0] == x.shape[0] else 0
        for k in range(0, whole, 8):
            store_f32x8(x, row * n + k, load_f32x8(x, row * n + k) * load_f32x8(y, source + k))
        for k in range(whole, n):
            store_f32(x, row * n + k, load_f32(x, row * n + k) * load_f32(y, source + k))


def soft_cap_ref(x: np.ndarray, cap: float) -> None:
    """x = cap tanh(x / cap) (Bello et al. 2016; Gemma 2)."""
    x[:] = cap * np.tanh(x / cap)


@row_operation(twin=soft_cap_ref)
def soft_cap(x, cap, first, last):
    """x (rows, n) = cap tanh(x / cap), between -cap and cap."""
    n = x.shape[1]
    whole = n // 8 * 8
    for row in range(first, last):
        for k in range(0, whole, 8):
            store_f32x8(x, row * n + k, tanh_f32x8(load_f32x8(x, row * n + k) / cap) * cap)
        for k in range(whole, n):
            x[row, k] = tanh_f32x8(f32x8(x[row, k] / cap))[0] * cap


def scale_ref(x: np.ndarray, factor: float) -> None:
    """x *= factor."""
    x *= factor


@row_operation(twin=scale_ref)
def scale(x, factor, first, last):
    """x (rows, n) *= factor."""
    for row in range(first, last):
        for k in range(x.shape[1]):
            x[row, k] *= factor


def scale_by_position_ref(x: np.ndarray, positions: np.ndarray, length: int, strength: float) -> None:
    """x (num_tokens, n) *= 1 + strength log(1 + floor(position / length)) (Nakanishi 2025, in steps; Ministral 3)."""
    x *= (1 + strength * np.log1p(positions // length))[:, None]


@row_operation(twin=scale_by_position_ref)
def scale_by_position(x, positions, length, strength, first, last):
    """x (num_tokens, n) *= 1 + strength log(1 + floor(position / length)): sharper attention in long contexts."""
    for row in range(first, last):
        factor = np.float32(1 + strength * math.log(1 + positions[row] // length))
        for k in range(x.shape[1]):
            x[row, k] *= factor


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
