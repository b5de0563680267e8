"""F32: plain little-endian float32, a block of one element.

Dot products take float32 activations. Element k is added to partial sum k mod 8; the eight partial sums are added by
the tree of `sum_f32x8`. This order is the same for every shape, so results do not depend on how work is cut.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import f32x8, fma, fma_f32, load_f32, load_f32x8, sum_f32x8, with_lane
from .base import Format, float_vec_dot_ref

QK, TYPE_SIZE = 1, 4


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 4) uint8 -> (n, 1) float32"""
    return np.ascontiguousarray(blocks).view(np.float32)


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    flat = out.reshape(-1)
    for k in range(num_blocks):
        flat[out_offset + k] = load_f32(w, offset + k * TYPE_SIZE)


def vec_dot_ref(blocks: np.ndarray, x: np.ndarray) -> np.float32:
    """One row (n, 4) times one token (n,) float32."""
    return float_vec_dot_ref(dequantize_ref(blocks)[:, 0], x)


@inlined
def vec_dot(w, offset, num_blocks, x, token):
    acc = f32x8(0.0)
    first = token * num_blocks
    whole = num_blocks // 8 * 8
    for k in range(0, whole, 8):
        acc = fma(load_f32x8(w, offset + k * TYPE_SIZE), load_f32x8(x, first + k), acc)
    for k in range(whole, num_blocks):
        product = fma_f32(load_f32(w, offset + k * TYPE_SIZE), load_f32(x, first + k), acc[k - whole])
        acc = with_lane(acc, k - whole, product)
    return sum_f32x8(acc)


FORMAT = Format("F32", 0, QK, TYPE_SIZE, 0, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot)
