"""F32: plain little-endian float32, a block of one element.

Dot products of the float formats take float32 activations. Element k is added to partial sum k mod 8; the eight
partial sums are added by the tree of `sum_f32x8`. This order is the same for every shape, so results do not depend on
how work is cut.

32 bits a weight. IEEE 754 binary32; ggml's type ``float``.
"""

from __future__ import annotations

import numpy as np

from ..simd import load_f32, load_f32x8
from .base import Format, float_operations, float_vec_dot_ref

QK, TYPE_SIZE = 1, 4


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 4) uint8 -> (n, 1) float32"""
    return np.ascontiguousarray(blocks).view(np.float32)


def vec_dot_ref(blocks: np.ndarray, x: np.ndarray) -> np.float32:
    """One row (n, 4) times one token (n,) float32."""
    return float_vec_dot_ref(dequantize_ref(blocks)[:, 0], x)


LOADS = load_f32, load_f32x8
dequantize_row, vec_dot = float_operations(*LOADS, TYPE_SIZE)

FORMAT = Format("F32", 0, QK, TYPE_SIZE, 0, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, loads=LOADS)
