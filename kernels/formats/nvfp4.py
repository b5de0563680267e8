"""NVFP4: 64 weights of 4 bits, small floats as in MXFP4, in 4 sub-blocks of 16, each with an 8-bit float as scale.

::

    bytes 0-3   d   uint8[4]   scales: 4 bits of exponent (bits 3 to 6), 3 of fraction (bits 0 to 2); 0x7F is 0
    bytes 4-35  qs  uint8[32]  8 bytes a sub-block, low nibbles: q[0] to q[7], high nibbles: q[8] to q[15]

    weight = d[sub] / 2 * VALUES[q]

4.5 bits a weight. Layout and values: ggml's ``block_nvfp4``; the values are kept doubled, as integers.

Products take a sub-block's scale as a whole multiple of 1/64 of the power of two that the block's largest one has.
That is exact unless scales of one block differ more than 64 times; then the small ones are rounded, by at most 1/1000
of the largest. Dequantization is always exact.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import (
    as_bytes,
    as_f32,
    concat,
    i32x8,
    load_i8x16,
    load_u8,
    load_u8x32,
    load_words,
    lookup,
    store_f32,
    store_rows,
)
from .base import nibbles_ref
from .mxfp4 import OFFSET, UNSIGNED, VALUES
from .runs import run_format

QK, TYPE_SIZE = 64, 36
QS = 4  # byte offset
assert TYPE_SIZE == QS + QK // 2

# Where the nibbles of 32 weights lie in 16 bytes: low ones of the first eight bytes, then high ones, and so on.
PLACES = np.concatenate([np.arange(8), np.arange(8), np.arange(8, 16), np.arange(8, 16)]).astype(np.uint8)
LOW_NIBBLES = np.tile(np.repeat(np.array([15, 0], np.uint8), 8), 2)


# ------------------------------------------------------- the readable form


def parts_ref(blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """blocks (n, 36) uint8 -> m, e (n, 4) int32: the scales d / 2 are m * 2^(e - 11), m below 16"""
    exponent, fraction = (blocks[:, :QS] >> 3 & 15).astype(np.int32), (blocks[:, :QS] & 7).astype(np.int32)
    m = np.where(exponent > 0, fraction + 8, fraction)
    return np.where(blocks[:, :QS] == 0x7F, 0, m), np.maximum(exponent, 1)


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 36) uint8 -> (n,) float32: 1/64 of 2^(e - 11) for the largest e of the block"""
    return np.ldexp(np.float32(1), parts_ref(blocks)[1].max(1) - 17)


def scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 36) uint8 -> (n, 4) int32, 0..960: the scales in units of d, rounded to nearest"""
    m, e = parts_ref(blocks)
    return ((m << 7 >> e.max(1, keepdims=True) - e) + 1) >> 1


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 36) uint8 -> (n, 64) int8, -12..12"""
    return VALUES[nibbles_ref(blocks[:, QS:].reshape(-1, 4, 8))].reshape(-1, QK)


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 36) uint8 -> (n, 64) float32"""
    m, e = parts_ref(blocks)
    return np.repeat(np.ldexp(m.astype(np.float32), e - 11), 16, axis=1) * quants_ref(blocks).astype(np.float32)


# ------------------------------------------------------- the compiled form


@inlined
def parts(bytes_):
    """m and e of the scale in each lane."""
    exponent, is_number = bytes_ >> 3 & 15, ((bytes_ ^ 0x7F) + 255) >> 8
    is_normal = (exponent + 15) >> 4
    return ((bytes_ & 7) + (is_normal << 3)) * is_number, exponent + 1 - is_normal


@inlined
def larger(a, b):
    difference = b - a
    return a + (difference & (difference >> 31 ^ -1))


@inlined
def rounded(m, shift):
    """64 * m / 2^shift to nearest."""
    return (((m << 7) >> shift) + 1) >> 1


@inlined
def unpack_header(w, start, stride, panel, index):
    words = load_words(w, start, stride)
    m0, e0 = parts(words & 255)
    m1, e1 = parts(words >> 8 & 255)
    m2, e2 = parts(words >> 16 & 255)
    m3, e3 = parts(words >> 24 & 255)
    top = larger(larger(e0, e1), larger(e2, e3))
    s0, s1 = rounded(m0, top - e0), rounded(m1, top - e1)
    s2, s3 = rounded(m2, top - e2), rounded(m3, top - e3)
    store_rows(panel.d, index, as_f32((top + 110) << 23))  # 2^(top - 17)
    store_rows(panel.scales, index, concat(concat(s0 | s0 << 16, s1 | s1 << 16), concat(s2 | s2 << 16, s3 | s3 << 16)))
    store_rows(panel.factors, index, concat((s0 | s1 << 16) * OFFSET, (s2 | s3 << 16) * OFFSET))


@inlined
def quants(w, start, run):
    packed = as_bytes(lookup(load_i8x16(w, start + QS + 16 * run), load_u8x32(PLACES, 0)))
    low = load_u8x32(LOW_NIBBLES, 0)
    return as_bytes(lookup(load_i8x16(UNSIGNED, 0), packed & low | packed >> 4 & (low ^ 15)))


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        for run in range(2):
            q = quants(w, start, run)
            for j in range(32):
                m, e = parts(i32x8(np.int32(load_u8(w, start + 2 * run + j // 16))))
                scale = np.float32(m[0]) * as_f32((e + 116) << 23)[0]  # 2^(e - 11)
                store_f32(out, out_offset + b * QK + 32 * run + j, scale * np.float32(np.int32(q[j]) - OFFSET))


FORMAT = run_format(
    "NVFP4", 40, QK, TYPE_SIZE, scales=2, offset=OFFSET, d_ref=d_ref, scales_ref=scales_ref, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants, dequantize_ref=dequantize_ref, dequantize_row=dequantize_row,
    wide_scales=True,
)  # fmt: skip
