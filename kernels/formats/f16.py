"""F16: little-endian float16, a block of one element. Dot products as in `f32`.

16 bits a weight: 1 sign, 5 exponent, 10 fraction. IEEE 754 binary16; ggml's ``ggml_fp16_t``.
"""

from __future__ import annotations

import numpy as np

from ..simd import load_f16, load_f16x8
from .base import Format, float_operations, float_vec_dot_ref, read_f16

QK, TYPE_SIZE = 1, 2


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 2) uint8 -> (n, 1) float32"""
    return read_f16(blocks, 0)


def vec_dot_ref(blocks: np.ndarray, x: np.ndarray) -> np.float32:
    """One row (n, 2) times one token (n,) float32."""
    return float_vec_dot_ref(dequantize_ref(blocks)[:, 0], x)


LOADS = load_f16, load_f16x8
dequantize_row, vec_dot = float_operations(*LOADS, TYPE_SIZE)

FORMAT = Format("F16", 1, QK, TYPE_SIZE, 0, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, loads=LOADS)
