"""IQ3_S: 256 weights, four at a time a point of a grid of 512, in 8 sub-blocks of 32, each with a 4-bit scale.

::

    bytes 0-1      d       float16    scale of the scales
    bytes 2-65     qs      uint8[64]  lower 8 bits of the indices
    bytes 66-73    qh      uint8[8]   bit 8 of eight indices each, the first lowest
    bytes 74-105   signs   uint8[32]  a bit a weight, the first of eight lowest
    bytes 106-109  scales  uint8[4]   two sub-blocks a byte, the lower nibble first

    weight = d * (2 * scale[sub] + 1) * sign * GRID[index]

3.4375 bits a weight. Layout and grid: ggml's ``block_iq3_s`` and ``iq3s_grid``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import gather_4, load_halves, load_u8, load_u32, load_words
from .base import read_f16
from .grids import constant_table, grid, nibbles_as_bytes_ref, signs_ref, with_signs
from .iq2_xs import eight_scales
from .runs import run_format, store_header

QK, TYPE_SIZE = 256, 110
QS, QH, SIGNS, SCALES = 2, 66, 74, 106  # byte offsets
assert TYPE_SIZE == SCALES + 4
OFFSET = 15  # the largest coordinate

GRID = constant_table(lambda: grid("IQ3_S"))
write_header = store_header(1, OFFSET)


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 110) uint8 -> (n,) float32"""
    return read_f16(blocks, 0)[:, 0]


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 110) uint8 -> (n, 8) int32, odd, 1..31"""
    return 2 * nibbles_as_bytes_ref(blocks[:, SCALES:]).astype(np.int32) + 1


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 110) uint8 -> (n, 256) int8, -15..15"""
    high = (blocks[:, QH:SIGNS, None] >> np.arange(8, dtype=np.uint8) & 1).reshape(-1, 64)
    indices = blocks[:, QS:QH] | high.astype(np.uint16) << 8
    return GRID()[indices].reshape(-1, QK) * signs_ref(blocks[:, SIGNS:SCALES]).reshape(-1, QK)


@inlined
def unpack_header(w, start, stride, panel, index):
    write_header(panel, index, load_halves(w, start, stride), eight_scales(load_words(w, start + SCALES, stride)))


@inlined
def quants(w, start, run):
    at = start + QS + 8 * run
    a, b, high = load_u32(w, at), load_u32(w, at + 4), np.int64(load_u8(w, start + QH + run)) << 8
    points = gather_4(
        GRID(),
        a & 255 | high & 256,
        a >> 8 & 255 | high >> 1 & 256,
        a >> 16 & 255 | high >> 2 & 256,
        a >> 24 | high >> 3 & 256,
        b & 255 | high >> 4 & 256,
        b >> 8 & 255 | high >> 5 & 256,
        b >> 16 & 255 | high >> 6 & 256,
        b >> 24 | high >> 7 & 256,
    )
    return with_signs(points, load_u32(w, start + SIGNS + 4 * run)) + OFFSET


FORMAT = run_format(
    "IQ3_S", 21, QK, TYPE_SIZE, scales=1, offset=OFFSET, d_ref=d_ref, scales_ref=scales_ref, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants,
)  # fmt: skip
