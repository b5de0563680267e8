"""What the layouts of several formats have in common."""

from __future__ import annotations

import numpy as np

__all__ = ["Quantized", "around", "halves", "pack_nibbles"]

Quantized = tuple[np.ndarray, float]  # blocks (n_blocks, type_size) uint8, and the sum of squares of what they are off


def around(level: float, reach: float, step: float) -> np.ndarray:
    """Levels for a search: from `level` - `reach` to `level` + `reach`."""
    count = round(reach / step)
    return (level + step * np.arange(-count, count + 1)).astype(np.float32)


def halves(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) float32 -> float16 as bytes (n, 2) uint8, and as they are read back, float32 (n,)."""
    with np.errstate(over="ignore"):  # what float16 cannot hold shows in the error
        rounded = values.astype(np.float16)
    return rounded.view(np.uint8).reshape(-1, 2), rounded.astype(np.float32)


def pack_nibbles(q: np.ndarray) -> np.ndarray:
    """(..., 2 n), 0..15 -> (..., n) uint8: the first half in the low nibbles, the second in the high ones"""
    low, high = np.split(q.view(np.uint8), 2, axis=-1)
    return low | high << 4
