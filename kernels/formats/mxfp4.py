"""MXFP4: 32 weights of 4 bits, small floats (sign, 2 bits of exponent, 1 of fraction), and a power of two as scale.

::

    byte 0      e   uint8      scale: 2^(e - 127)
    bytes 1-16  qs  uint8[16]  low nibbles: q[0] to q[15], high nibbles: q[16] to q[31]

    weight j = 2^(e - 128) * VALUES[q[j]]

4.25 bits a weight. Layout and values: ggml's ``block_mxfp4``; the format: "OCP Microscaling Formats Specification"
1.0 (2023). The values are kept doubled, as integers, so that sums of products are exact.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    as_bytes,
    as_f32,
    concat,
    fma_f32,
    i32x8,
    interleave_16,
    load_f32,
    load_i8x16,
    load_u8,
    load_words,
    lookup,
    lookup_wide,
    store_f32,
    store_rows,
)
from .base import Q8, Format, dot_32_signed, fma_ref, load_nibbles, nibbles_ref

QK, TYPE_SIZE = 32, 17
QS = 1  # byte offset
assert TYPE_SIZE == QS + QK // 2

VALUES = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.int8)
OFFSET = 12
UNSIGNED = VALUES + np.int8(OFFSET)  # 0..24: panels multiply unsigned bytes, and subtract the offset from a whole block


def unpack_quants_ref(packed: np.ndarray) -> np.ndarray:
    """(..., 16) uint8 -> (..., 32) int8, -12..12"""
    return VALUES[nibbles_ref(packed)]


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 17) uint8 -> (n, 1) float32, 2^-128 to 2^127"""
    return np.ldexp(np.float32(1), blocks[:, :QS].astype(np.int32) - 128)


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 17) uint8 -> (n, 32) float32"""
    with np.errstate(over="ignore"):
        return scales_ref(blocks) * unpack_quants_ref(blocks[:, QS:]).astype(np.float32)


@inlined
def power_of_two(e):
    """2^(e - 128) of each lane: two factors, because those below 2^-126 have no exponent of their own."""
    half = e >> 1
    return as_f32((half + 63) << 23) * as_f32((e - half + 63) << 23)


@inlined
def scale(w, start):
    """Of the block at `start`."""
    return power_of_two(i32x8(np.int32(load_u8(w, start))))[0]


@inlined
def quants(w, start):
    """The elements of the block at `start`, -12..12."""
    return lookup(load_i8x16(VALUES, 0), load_nibbles(w, start + QS))


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d, q = scale(w, start), quants(w, start)
        for j in range(QK):
            store_f32(out, out_offset + b * QK + j, d * np.float32(q[j]))


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 17) times one token: exact integer sums in a block, blocks in ascending order."""
    d = scales_ref(blocks)[:, 0]
    q = unpack_quants_ref(blocks[:, QS:]).astype(np.int32)  # (n, 32)
    s = (q * x.q.reshape(-1, QK)).sum(1)  # (n,)
    acc = np.float32(0)
    for b in range(len(blocks)):
        acc = fma_ref(x.d[b], d[b] * np.float32(s[b]), acc)
    return acc


@inlined
def vec_dot(w, offset, num_blocks, x, token):
    acc = np.float32(0)
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        column = token * num_blocks + b
        s = dot_32_signed(quants(w, start), x, column)
        acc = fma_f32(load_f32(x.d, column), scale(w, start) * np.float32(s), acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    store_rows(panel.d, index, power_of_two(load_words(w, start, stride) & 255))


@inlined
def unpack_quants(w, start, stride, group):
    q = interleave_16(w, start + QS, stride)
    return as_bytes(lookup_wide(load_i8x16(UNSIGNED, 0), concat(q & 15, q >> 4)))


@inlined
def row_quants(w, start):
    return as_bytes(lookup(load_i8x16(UNSIGNED, 0), load_nibbles(w, start + QS)))


# 2 * 24 * 127 fits int16 five times.
UNPACKED = Unpacked(unpack_header, unpack_quants, groups=1, steps=4, factor=OFFSET, row_quants=row_quants)

FORMAT = Format("MXFP4", 39, QK, TYPE_SIZE, 32, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
