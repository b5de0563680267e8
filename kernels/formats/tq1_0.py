"""TQ1_0: 256 weights -1, 0 or 1, five to a byte, and a scale.

::

    bytes 0-31   qs  uint8[32]  weight 32 * i + j is digit i of byte j
    bytes 32-47  qs  uint8[16]  weight 160 + 16 * i + j is digit i of byte 32 + j
    bytes 48-51  qh  uint8[4]   weight 240 + 4 * i + j is digit i of byte 48 + j, i below 4
    bytes 52-53  d   float16    scale

    weight = d * (digit - 1)

A byte is read as the fraction byte / 256 in base 3: digit i is the whole part of 3 times what is left after i digits.
1.6875 bits a weight. Layout: ggml's ``block_tq1_0``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import as_bytes, concat_u8, i32x8, load_halves, load_u8x16, load_u8x32, load_u32, store_rows
from .base import read_f16
from .runs import run_format

QK, TYPE_SIZE = 256, 54
MIDDLE, HIGH, D = 32, 48, 52  # byte offsets
assert TYPE_SIZE == D + 2
OFFSET = 1

# What each byte of the eight runs is multiplied by, modulo 256, to bring the wanted digit to the front.
_POWERS = np.array([1, 3, 9, 27, 81], np.uint8)
POWERS = np.concatenate([np.repeat(_POWERS, 32), np.repeat(_POWERS, 16), np.repeat(_POWERS[:4], 4)])
FIRST_HALF = np.repeat(np.array([255, 0], np.uint8), 16)


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 54) uint8 -> (n,) float32"""
    return read_f16(blocks, D)[:, 0]


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 54) uint8 -> (n, 256) int8, -1..1"""
    low, middle, high = blocks[:, :MIDDLE], blocks[:, MIDDLE:HIGH], blocks[:, HIGH:D]
    packed = np.concatenate([np.tile(low, 5), np.tile(middle, 5), np.tile(high, 4)], axis=1)
    fractions = (packed * POWERS).astype(np.uint16)  # products modulo 256: whole parts are dropped
    return (3 * fractions >> 8).astype(np.int8) - np.int8(OFFSET)


@inlined
def unpack_header(w, start, stride, panel, index):
    store_rows(panel.d, index, load_halves(w, start + D, stride))


@inlined
def packed_bytes(w, start, run):
    """The bytes that hold the digits of run `run`."""
    if run < 5:
        return load_u8x32(w, start)
    middle = load_u8x16(w, start + MIDDLE)
    both = concat_u8(middle, middle)
    if run < 7:
        return both
    first = load_u8x32(FIRST_HALF, 0)
    return both & first | as_bytes(i32x8(np.int32(load_u32(w, start + HIGH)))) & (first ^ 255)


@inlined
def quants(w, start, run):
    x = packed_bytes(w, start, run) * load_u8x32(POWERS, 32 * run)
    half = x >> 1
    return ((x & half) + ((x ^ half) >> 1)) >> 6  # 3 * x >> 8, from (x + x // 2) // 2, which fits a byte


FORMAT = run_format(
    "TQ1_0", 34, QK, TYPE_SIZE, scales=0, offset=OFFSET, d_ref=d_ref, scales_ref=None, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants,
)  # fmt: skip
