"""IQ1_M: 256 weights, eight at a time a shifted point of a grid of 2048, in 16 sub-blocks of 16, each with a scale.

::

    bytes 0-31   qs      uint8[32]  lower 8 bits of the indices
    bytes 32-47  qh      uint8[16]  a nibble an index, the lower one first: 3 upper bits; bit 3: shifted down, else up
    bytes 48-55  scales  uint16[4]  four scales of 3 bits each, the first lowest; the upper nibbles are the bits of a
                                    float16 d, the lowest first

    weight = d * (2 * scale[sub] + 1) * (GRID[index] + shift), coordinates -1, 0 or 1, shift 1/8 or -1/8

1.75 bits a weight. Layout and grid: ggml's ``block_iq1_m`` and ``iq1s_grid``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import as_bytes, bits_to_bytes, concat, gather_8, half_of_words, load_u16, load_u32, load_words
from .grids import nibbles_as_bytes_ref, odd
from .iq1_s import EIGHTHS, OFFSET
from .runs import run_format, store_header

QK, TYPE_SIZE = 256, 56
QS, QH, SCALES = 0, 32, 48  # byte offsets
assert TYPE_SIZE == SCALES + 2 * 4

write_header = store_header(2, OFFSET)


def words_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 56) uint8 -> (n, 4) uint16: scales and d"""
    return np.ascontiguousarray(blocks[:, SCALES:]).view("<u2")


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 56) uint8 -> (n,) float32"""
    nibbles = (words_ref(blocks) >> 12) << np.array([0, 4, 8, 12], np.uint16)
    return np.bitwise_or.reduce(nibbles, axis=1).view(np.float16).astype(np.float32) / 8


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 56) uint8 -> (n, 16) int32, odd, 1..15"""
    scales = words_ref(blocks)[..., None] >> np.array([0, 3, 6, 9], np.uint16) & 7
    return 2 * scales.reshape(-1, 16).astype(np.int32) + 1


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 56) uint8 -> (n, 256) int8, -9..9"""
    high = nibbles_as_bytes_ref(blocks[:, QH:SCALES])  # (n, 32)
    points = EIGHTHS()[blocks[:, QS:QH] | (high & 7).astype(np.uint16) << 8]
    shifts = 1 - 2 * (high >> 3).astype(np.int8)
    return (points + shifts[..., None]).reshape(-1, QK)


@inlined
def four_scales(words):
    """The four fields of 3 bits of the lower half of each lane, a byte each."""
    fields = words & 0x7 | words << 5 & 0x700 | words << 10 & 0x70000 | words << 15 & 0x7000000
    return as_bytes(odd(fields))


@inlined
def unpack_header(w, start, stride, panel, index):
    a, b = load_words(w, start + SCALES, stride), load_words(w, start + SCALES + 4, stride)
    bits = a >> 12 & 0xF | a >> 24 & 0xF0 | b >> 4 & 0xF00 | b >> 16 & 0xF000
    scales = concat(
        concat(four_scales(a), four_scales(a >> 16)),
        concat(four_scales(b), four_scales(b >> 16)),
    )
    write_header(panel, index, half_of_words(bits, 0) * np.float32(0.125), scales)


@inlined
def quants(w, start, run):
    low, high = np.int64(load_u32(w, start + QS + 4 * run)), np.int64(load_u16(w, start + QH + 2 * run))
    points = gather_8(
        EIGHTHS(),
        low & 255 | (high & 7) << 8,
        low >> 8 & 255 | (high >> 4 & 7) << 8,
        low >> 16 & 255 | (high >> 8 & 7) << 8,
        low >> 24 | (high >> 12 & 7) << 8,
    )
    down = high >> 3 & 1 | (high >> 7 & 1) << 8 | (high >> 11 & 1) << 16 | (high >> 15) << 24
    return points - (bits_to_bytes(np.uint32(255 * down)) & 2) + (OFFSET + 1)


FORMAT = run_format(
    "IQ1_M", 29, QK, TYPE_SIZE, scales=2, offset=OFFSET, d_ref=d_ref, scales_ref=scales_ref, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants,
)  # fmt: skip
