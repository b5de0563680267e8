"""IQ1_S: 256 weights, eight at a time a point of a grid of 2048, in 8 sub-blocks of 32, each with a scale and a shift.

::

    bytes 0-1    d   float16    scale of the scales
    bytes 2-33   qs  uint8[32]  lower 8 bits of the indices
    bytes 34-49  qh  uint16[8]  one a sub-block: upper 3 bits of four indices, the first lowest, then 3 bits of scale;
                                bit 15: the sub-block is shifted down, else up

    weight = d * (2 * scale[sub] + 1) * (GRID[index] + shift), coordinates -1, 0 or 1, shift 1/8 or -1/8

1.5625 bits a weight. Layout and grid: ggml's ``block_iq1_s`` and ``iq1s_grid``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import as_bytes, concat, gather_8, load_halves, load_u16, load_u32, load_words
from .base import read_f16
from .grids import constant_table, grid, odd
from .runs import run_format, store_header

QK, TYPE_SIZE = 256, 50
QS, QH = 2, 34  # byte offsets
assert TYPE_SIZE == QH + 2 * 8
OFFSET = 9  # the largest 8 * (coordinate + shift)

EIGHTHS = constant_table(lambda: grid("IQ1_S") * np.int8(8))
write_header = store_header(1, OFFSET)


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 50) uint8 -> (n,) float32"""
    return read_f16(blocks, 0)[:, 0] / 8


def high_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 50) uint8 -> (n, 8) uint16: qh"""
    return np.ascontiguousarray(blocks[:, QH:]).view("<u2")


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 50) uint8 -> (n, 8) int32, odd, 1..15"""
    return 2 * (high_ref(blocks) >> 12 & 7).astype(np.int32) + 1


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 50) uint8 -> (n, 256) int8, -9..9"""
    high = high_ref(blocks)
    upper = (high[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7).reshape(-1, 32)
    shifts = 1 - 2 * (high >> 15).astype(np.int8)
    points = EIGHTHS()[blocks[:, QS:QH] | upper << 8].reshape(-1, 8, 32)
    return (points + shifts[..., None]).reshape(-1, QK)


@inlined
def two_scales(w, start, stride):
    """Those of two sub-blocks of eight rows, in bytes 0 and 1."""
    words = load_words(w, start, stride)
    return words >> 12 & 7 | (words >> 28 & 7) << 8


@inlined
def four_scales(w, start, stride):
    """Those of four sub-blocks of eight rows, a byte each."""
    return as_bytes(odd(two_scales(w, start, stride) | two_scales(w, start + 4, stride) << 16))


@inlined
def unpack_header(w, start, stride, panel, index):
    scales = concat(four_scales(w, start + QH, stride), four_scales(w, start + QH + 8, stride))
    write_header(panel, index, load_halves(w, start, stride) * np.float32(0.125), scales)


@inlined
def quants(w, start, run):
    low, high = np.int64(load_u32(w, start + QS + 4 * run)), np.int64(load_u16(w, start + QH + 2 * run))
    points = gather_8(
        EIGHTHS(),
        low & 255 | (high & 7) << 8,
        low >> 8 & 255 | (high >> 3 & 7) << 8,
        low >> 16 & 255 | (high >> 6 & 7) << 8,
        low >> 24 | (high >> 9 & 7) << 8,
    )
    return points + (OFFSET + 1 - 2 * (high >> 15))


FORMAT = run_format(
    "IQ1_S", 19, QK, TYPE_SIZE, scales=1, offset=OFFSET, d_ref=d_ref, scales_ref=scales_ref, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants,
)  # fmt: skip
