"""IQ2_S: 256 weights, eight at a time a point of a grid of 1024, in 16 sub-blocks of 16, each with a 4-bit scale.

::

    bytes 0-1    d       float16    scale of the scales
    bytes 2-33   qs      uint8[32]  lower 8 bits of the indices
    bytes 34-65  signs   uint8[32]  a bit a weight, the first weight of a point lowest
    bytes 66-73  qh      uint8[8]   upper 2 bits of four indices each, the first lowest
    bytes 74-81  scales  uint8[8]   two sub-blocks a byte, the lower nibble first

    weight = d / 8 * (2 * scale[sub] + 1) * sign * GRID[index]

2.5625 bits a weight. Layout and grid: ggml's ``block_iq2_s`` and ``iq2s_grid``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import gather_8, load_halves, load_u8, load_u32
from .base import read_f16
from .grids import constant_table, grid, nibbles_as_bytes_ref, signs_ref, with_signs
from .iq2_xs import sixteen_scales
from .runs import run_format, store_header

QK, TYPE_SIZE = 256, 82
QS, SIGNS, QH, SCALES = 2, 34, 66, 74  # byte offsets
assert TYPE_SIZE == SCALES + 8
OFFSET = 43  # the largest coordinate

GRID = constant_table(lambda: grid("IQ2_S"))
write_header = store_header(2, OFFSET)


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 82) uint8 -> (n,) float32"""
    return read_f16(blocks, 0)[:, 0] / 8


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 82) uint8 -> (n, 16) int32, odd, 1..31"""
    return 2 * nibbles_as_bytes_ref(blocks[:, SCALES:]).astype(np.int32) + 1


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 82) uint8 -> (n, 256) int8, -43..43"""
    high = (blocks[:, QH:SCALES, None] >> np.array([0, 2, 4, 6], np.uint8) & 3).reshape(-1, 32)
    indices = blocks[:, QS:SIGNS] | high.astype(np.uint16) << 8
    return (GRID()[indices] * signs_ref(blocks[:, SIGNS:QH])).reshape(-1, QK)


@inlined
def unpack_header(w, start, stride, panel, index):
    d = load_halves(w, start, stride) * np.float32(0.125)
    write_header(panel, index, d, sixteen_scales(w, start + SCALES, stride))


@inlined
def quants(w, start, run):
    low, high = np.int64(load_u32(w, start + QS + 4 * run)), np.int64(load_u8(w, start + QH + run))
    points = gather_8(
        GRID(),
        low & 255 | (high & 3) << 8,
        low >> 8 & 255 | (high >> 2 & 3) << 8,
        low >> 16 & 255 | (high >> 4 & 3) << 8,
        low >> 24 | (high >> 6) << 8,
    )
    return with_signs(points, load_u32(w, start + SIGNS + 4 * run)) + OFFSET


FORMAT = run_format(
    "IQ2_S", 22, QK, TYPE_SIZE, scales=2, offset=OFFSET, d_ref=d_ref, scales_ref=scales_ref, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants,
)  # fmt: skip
