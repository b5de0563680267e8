"""IQ2_XS: 256 weights, eight at a time a point of a grid of 512, in 16 sub-blocks of 16, each with a 4-bit scale.

::

    bytes 0-1    d       float16     scale of the scales
    bytes 2-65   qs      uint16[32]  lower 9 bits: index of a point, upper 7: its signs
    bytes 66-73  scales  uint8[8]    two sub-blocks a byte, the lower nibble first

    weight = d / 8 * (2 * scale[sub] + 1) * sign * GRID[index]

2.3125 bits a weight. Layout and grid: ggml's ``block_iq2_xs`` and ``iq2xs_grid``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import as_bytes, concat, gather_8, load_halves, load_u32, load_words
from .base import read_f16
from .grids import (
    EVEN_SIGNS,
    constant_table,
    even_signs,
    grid,
    nibbles_as_bytes,
    nibbles_as_bytes_ref,
    odd,
    signs_ref,
    with_signs,
)
from .runs import run_format, store_header

QK, TYPE_SIZE = 256, 74
QS, SCALES = 2, 66  # byte offsets
assert TYPE_SIZE == SCALES + 8
OFFSET = 43  # the largest coordinate

GRID = constant_table(lambda: grid("IQ2_XS"))
write_header = store_header(2, OFFSET)


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 74) uint8 -> (n,) float32"""
    return read_f16(blocks, 0)[:, 0] / 8


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 74) uint8 -> (n, 16) int32, odd, 1..31"""
    return 2 * nibbles_as_bytes_ref(blocks[:, SCALES:]).astype(np.int32) + 1


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 74) uint8 -> (n, 256) int8, -43..43"""
    qs = np.ascontiguousarray(blocks[:, QS:SCALES]).view("<u2")  # (n, 32)
    return (GRID()[qs & 511] * signs_ref(EVEN_SIGNS[qs >> 9])).reshape(-1, QK)


@inlined
def eight_scales(words):
    """Four bytes of nibbles of each row -> eight scales."""
    return concat(as_bytes(odd(nibbles_as_bytes(words))), as_bytes(odd(nibbles_as_bytes(words >> 16))))


@inlined
def sixteen_scales(w, start, stride):
    """Eight bytes of nibbles of eight rows -> sixteen scales, 2 s + 1 of each nibble s."""
    return concat(eight_scales(load_words(w, start, stride)), eight_scales(load_words(w, start + 4, stride)))


@inlined
def unpack_header(w, start, stride, panel, index):
    d = load_halves(w, start, stride) * np.float32(0.125)
    write_header(panel, index, d, sixteen_scales(w, start + SCALES, stride))


@inlined
def quants(w, start, run):
    at = start + QS + 8 * run
    first, second = np.int64(load_u32(w, at)), np.int64(load_u32(w, at + 4))
    points = gather_8(GRID(), first & 511, first >> 16 & 511, second & 511, second >> 16 & 511)
    signs = first >> 9 & 127 | first >> 18 & 127 << 7 | (second >> 9 & 127 | second >> 18 & 127 << 7) << 14
    return with_signs(points, even_signs(signs)) + OFFSET


FORMAT = run_format(
    "IQ2_XS", 17, QK, TYPE_SIZE, scales=2, offset=OFFSET, d_ref=d_ref, scales_ref=scales_ref, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants,
)  # fmt: skip
