"""Formats that are shorter floats: F32, F16 and BF16.

Each function takes x (n, 1) float32 (and what matters elsewhere, which changes nothing here), and returns it in the
format, (n, type_size) uint8, and the sum of squares of what it is off.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .packing import Quantized, halves

__all__ = ["quantize_bf16", "quantize_f16", "quantize_f32"]


def _error(x: np.ndarray, stored: np.ndarray) -> float:
    return float(np.square(x - stored, dtype=np.float64).sum())


def quantize_f32(x: np.ndarray, w: np.ndarray, moments: Any = None) -> Quantized:
    return x.view(np.uint8).reshape(-1, 4), 0.0


def quantize_f16(x: np.ndarray, w: np.ndarray, moments: Any = None) -> Quantized:
    stored, values = halves(x.reshape(-1))
    return stored, _error(x.reshape(-1), values)


def quantize_bf16(x: np.ndarray, w: np.ndarray, moments: Any = None) -> Quantized:
    """The upper half of a float32, rounded to nearest, ties to even: adding less than half a unit carries into it."""
    bits = x.reshape(-1).view(np.uint32)
    upper = (bits + (0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return upper.view(np.uint8).reshape(-1, 2), _error(x.reshape(-1), (upper.astype(np.uint32) << 16).view(np.float32))
