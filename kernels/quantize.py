"""Activations to int8: what the dot products of quantized weights take (`formats.Q8`).

A group of 32 or 256 elements shares the scale d = max |x| / 127, and q = x / d rounded to nearest. The sums of each
16 q go along, because they turn a block's minimum or offset into one multiplication.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .cache import kernel
from .formats.base import Q8

SUM_LENGTH = 16  # elements in each entry of Q8.sums


def allocate_q8(num_tokens: int, n_in: int, group: int) -> Q8:
    """Buffers for `num_tokens` rows of `n_in` elements, a multiple of `group`."""
    return Q8(
        np.empty((num_tokens, n_in), np.int8),
        np.empty((num_tokens, n_in // group), np.float32),
        np.empty((num_tokens, n_in // SUM_LENGTH), np.int16),
    )


def quantize_q8_ref(x: np.ndarray, group: int) -> Q8:
    """x (num_tokens, n_in) float32 -> Q8. A group with NaN or infinity gets d = NaN and q = 0."""
    groups = x.reshape(x.shape[0], -1, group)
    largest = np.abs(groups).max(2)
    finite = np.isfinite(largest)
    d = np.where(finite, largest / np.float32(127), np.float32(np.nan)).astype(np.float32)
    inverse = np.where(finite & (largest > 0), np.float32(127) / np.where(largest > 0, largest, 1), 0)
    q = np.rint(np.where(finite[..., None], groups, 0) * inverse.astype(np.float32)[..., None])
    q = np.clip(q, -127, 127).astype(np.int8).reshape(x.shape)
    sums = q.reshape(x.shape[0], -1, SUM_LENGTH).sum(2, dtype=np.int16)
    return Q8(q, d, sums)


@kernel
def quantize_row_q8(x, out, token, group):
    """Quantize row `token` of x (num_tokens, n_in) into the same row of `out`."""
    for g in range(x.shape[1] // group):
        first = g * group
        largest = np.float32(0)
        for k in range(first, first + group):
            magnitude = abs(x[token, k])
            # Written so that NaN, which compares false with everything, is kept.
            largest = largest if magnitude <= largest else magnitude
        finite = largest <= np.float32(3.4028235e38)
        # Below the smallest normal float32 the inverse would overflow: such a group counts as zero.
        inverse = np.float32(127) / largest if finite and largest > np.float32(1e-36) else np.float32(0)
        out.d[token, g] = largest / np.float32(127) if finite else np.float32(np.nan)
        for s in range(first // SUM_LENGTH, (first + group) // SUM_LENGTH):
            total = np.int32(0)
            for k in range(s * SUM_LENGTH, (s + 1) * SUM_LENGTH):
                value = np.int32(np.rint(x[token, k] * inverse)) if finite else np.int32(0)
                value = min(max(value, np.int32(-127)), np.int32(127))
                out.q[token, k] = value
                total += value
            out.sums[token, s] = total


@kernel(parallel=True)
def quantize_q8(x, out, group):
    """x (num_tokens, n_in) float32 -> `out`, buffers of the same shape (`allocate_q8`)."""
    for token in prange(x.shape[0]):
        quantize_row_q8(x, out, token, group)
