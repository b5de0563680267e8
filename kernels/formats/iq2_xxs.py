"""IQ2_XXS: 256 weights, eight at a time a point of a grid of 256, in 8 sub-blocks of 32, each with a 4-bit scale.

::

    bytes 0-1   d   float16   scale of the scales
    bytes 2-65  qs  8 bytes a sub-block: four indices, then a uint32 of four times 7 sign bits and above them the scale

    weight = d / 8 * (2 * scale[sub] + 1) * sign * GRID[index]

2.0625 bits a weight. Layout and grid: ggml's ``block_iq2_xxs`` and ``iq2xxs_grid``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import as_bytes, concat, gather_8, load_halves, load_u32, load_words
from .base import read_f16
from .grids import EVEN_SIGNS, constant_table, even_signs, grid, odd, signs_ref, with_signs
from .runs import run_format, store_header

QK, TYPE_SIZE = 256, 66
QS = 2  # byte offset
assert TYPE_SIZE == QS + 8 * 8
OFFSET = 43  # the largest coordinate

GRID = constant_table(lambda: grid("IQ2_XXS"))
write_header = store_header(1, OFFSET)


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 66) uint8 -> (n,) float32"""
    return read_f16(blocks, 0)[:, 0] / 8


def words_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 66) uint8 -> (n, 8) uint32: signs and scale of each sub-block"""
    return np.ascontiguousarray(blocks[:, QS:]).view("<u4")[:, 1::2]


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 66) uint8 -> (n, 8) int32, odd, 1..31"""
    return 2 * (words_ref(blocks) >> 28).astype(np.int32) + 1


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 66) uint8 -> (n, 256) int8, -43..43"""
    indices = blocks[:, QS:].reshape(-1, 8, 8)[:, :, :4]
    signs = EVEN_SIGNS[words_ref(blocks)[..., None] >> np.array([0, 7, 14, 21], np.uint32) & 127]
    return (GRID()[indices] * signs_ref(signs)).reshape(-1, QK)


@inlined
def four_scales(w, start, stride):
    """Those of four sub-blocks of eight rows, a byte each, from the sub-block at `start`."""
    first, second = load_words(w, start + 4, stride) >> 28 & 15, load_words(w, start + 12, stride) >> 28 & 15
    third, fourth = load_words(w, start + 20, stride) >> 28 & 15, load_words(w, start + 28, stride) >> 28 & 15
    return as_bytes(odd(first | second << 8 | third << 16 | fourth << 24))


@inlined
def unpack_header(w, start, stride, panel, index):
    scales = concat(four_scales(w, start + QS, stride), four_scales(w, start + QS + 32, stride))
    write_header(panel, index, load_halves(w, start, stride) * np.float32(0.125), scales)


@inlined
def quants(w, start, run):
    at = start + QS + 8 * run
    indices, signs = load_u32(w, at), load_u32(w, at + 4)
    points = gather_8(GRID(), indices & 255, indices >> 8 & 255, indices >> 16 & 255, indices >> 24)
    return with_signs(points, even_signs(signs)) + OFFSET


FORMAT = run_format(
    "IQ2_XXS", 16, QK, TYPE_SIZE, scales=1, offset=OFFSET, d_ref=d_ref, scales_ref=scales_ref, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants,
)  # fmt: skip
