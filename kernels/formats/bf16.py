"""BF16: little-endian bfloat16, a block of one element. Dot products as in `f32`.

16 bits a weight: the upper half of a float32 (1 sign, 8 exponent, 7 fraction). ggml's ``ggml_bf16_t``.
"""

from __future__ import annotations

import numpy as np

from ..simd import load_bf16, load_bf16x8
from .base import Format, float_operations, float_vec_dot_ref

QK, TYPE_SIZE = 1, 2


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 2) uint8 -> (n, 1) float32"""
    upper = np.ascontiguousarray(blocks).view(np.uint16).astype(np.uint32)
    return (upper << 16).view(np.float32)


def vec_dot_ref(blocks: np.ndarray, x: np.ndarray) -> np.float32:
    """One row (n, 2) times one token (n,) float32."""
    return float_vec_dot_ref(dequantize_ref(blocks)[:, 0], x)


LOADS = load_bf16, load_bf16x8
dequantize_row, vec_dot = float_operations(*LOADS, TYPE_SIZE)

FORMAT = Format("BF16", 30, QK, TYPE_SIZE, 0, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, loads=LOADS)
