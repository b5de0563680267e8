"""Activations to int8: what the dot products of quantized weights take (`formats.Q8`).

A group of 32 or 256 elements shares the scale d = max |x| / 127, and q = x / d rounded to nearest. The sums of each
16 q go along, because they turn a block's minimum or offset into one multiplication.
"""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .formats.base import Q8
from .plan import row_operation
from .simd import (
    as_f32,
    as_i32,
    f32x8,
    fma,
    i32x8,
    load_f32x8,
    max_f32x8,
    maximum,
    round_f32x8,
    store_i8x8,
    sum_f32x8,
    sum_i32x8,
    to_i32x8,
)

SUM_LENGTH = 16  # elements in each entry of Q8.sums
_SMALLEST = np.float32(1e-36)  # 127 divided by less would overflow: a group without larger elements counts as zero


def allocate_q8(num_tokens: int, n_in: int, group: int) -> Q8:
    """Buffers for `num_tokens` rows of `n_in` elements, a multiple of `group`."""
    return Q8(
        np.empty((num_tokens, n_in), np.int8),
        np.empty((num_tokens, n_in // group), np.float32),
        np.empty((num_tokens, n_in // SUM_LENGTH), np.int16),
    )


def quantize_q8_ref(x: np.ndarray, group: int) -> Q8:
    """x (num_tokens, n_in) float32 -> Q8. A group with NaN or infinity gets d = NaN and q = 0."""
    groups = x.reshape(x.shape[0], x.shape[1] // group, group)
    largest = np.abs(groups).max(2)
    finite = np.isfinite(largest)
    d = np.where(finite, largest, np.float32(np.nan)) / np.float32(127)
    has_inverse = finite & (largest > _SMALLEST)
    inverse = np.where(has_inverse, np.float32(127) / np.where(has_inverse, largest, np.float32(1)), np.float32(0))
    q = np.rint(np.where(finite[..., None], groups, np.float32(0)) * inverse[..., None])
    q = q.astype(np.int8).reshape(x.shape)
    sums = q.reshape(x.shape[0], x.shape[1] // SUM_LENGTH, SUM_LENGTH).sum(2, dtype=np.int16)
    return Q8(q, d, sums)


@inlined
def largest_magnitude(x, first, group):
    """Largest |x| of the `group` elements from `first`; NaN if one of them is NaN or infinite."""
    largest, check = f32x8(0.0), f32x8(0.0)
    for k in range(first, first + group, 8):
        v = load_f32x8(x, k)
        largest = maximum(as_f32(as_i32(v) & 0x7FFFFFFF), largest)
        check = fma(v, f32x8(0.0), check)  # stays 0 until an element is NaN or infinite, then NaN
    return max_f32x8(largest) + sum_f32x8(check)


@inlined
def quantize_group(x, out, token, g, group):
    """Quantize group `g` of row `token`."""
    first = token * x.shape[1] + g * group  # in the flattened arrays
    largest = largest_magnitude(x, first, group)
    finite = np.isfinite(largest)
    inverse = np.float32(127) / largest if largest > _SMALLEST else np.float32(0)
    out.d[token, g] = largest / np.float32(127)
    for s in range(group // SUM_LENGTH):
        k = first + s * SUM_LENGTH
        # |x| * inverse is at most 127 and a rounding error, so no q is beyond 127.
        low = to_i32x8(round_f32x8(load_f32x8(x, k) * inverse)) if finite else i32x8(0)
        high = to_i32x8(round_f32x8(load_f32x8(x, k + 8) * inverse)) if finite else i32x8(0)
        store_i8x8(out.q, k, low)
        store_i8x8(out.q, k + 8, high)
        out.sums[token, g * group // SUM_LENGTH + s] = sum_i32x8(low + high)


def quantize_into_ref(x: np.ndarray, out: Q8, group: int) -> None:
    """x (num_tokens, n_in) float32 -> `out`, buffers of the same shape."""
    for buffer, part in zip(out, quantize_q8_ref(x, group), strict=True):
        buffer[:] = part


@row_operation(twin=quantize_into_ref)
def quantize_q8(x, out, group, first, last):
    """x (num_tokens, n_in) float32 -> `out`, buffers of the same shape (`allocate_q8`)."""
    for token in range(first, last):
        for g in range(x.shape[1] // group):
            quantize_group(x, out, token, g, group)
