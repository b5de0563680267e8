"""Q2_K: 256 weights of 2 bits in 16 sub-blocks of 16, each with a 4-bit scale and a 4-bit minimum.

::

    bytes 0-15   scales  uint8[16] low nibble: scale of the sub-block, high nibble: its minimum
    bytes 16-79  qs      uint8[64] 32 bytes a half of the block (see `unpack_quants_ref`)
    bytes 80-81  d       float16   scale of the scales
    bytes 82-83  dmin    float16   scale of the minimums

    weight = d * scale[sub] * q - dmin * minimum[sub]

2.625 bits a weight. Layout: ggml's ``block_q2_K``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    concat,
    fma_f32,
    half_of_words,
    i32x8,
    interleave_16,
    interleave_32,
    load_f16,
    load_f32,
    load_i8x32,
    load_i16x16,
    load_u8,
    load_u8x16,
    load_u8x32,
    load_words,
    madd,
    maddubs,
    spread,
    spread_pairs,
    store_f32,
    store_rows,
    sum_i32x8,
    widen_u8x16,
)
from .base import Q8, Format, fma_ref, read_f16, scale_pair

QK, TYPE_SIZE = 256, 84
SCALES, QS, D, DMIN = 0, 16, 80, 82  # byte offsets
assert TYPE_SIZE == DMIN + 2


def unpack_quants_ref(qs: np.ndarray) -> np.ndarray:
    """(n, 64) uint8 -> (n, 16, 16), 0..3.

    A half of 128 elements is four runs of 32: bits 2 * run and 2 * run + 1 of its byte j belong to element j.
    """
    return (qs.reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(-1, 16, 16)


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 84) uint8 -> (n, 256) float32"""
    scales = blocks[:, SCALES:QS]
    d = read_f16(blocks, D) * (scales & 15).astype(np.float32)  # (n, 16)
    dmin = read_f16(blocks, DMIN) * (scales >> 4).astype(np.float32)
    q = unpack_quants_ref(blocks[:, QS:D]).astype(np.float32)
    return (d[:, :, None] * q - dmin[:, :, None]).reshape(-1, QK)


@inlined
def quants(w, start, run):
    """Elements 32 * run to 32 * run + 31, 0..3, when the block's qs lie at `start`."""
    return load_u8x32(w, start + 32 * (run >> 2)) >> 2 * (run & 3) & 3


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d, dmin = load_f16(w, start + D), load_f16(w, start + DMIN)
        for run in range(8):
            q = quants(w, start + QS, run)
            for j in range(32):
                scale = load_u8(w, start + SCALES + 2 * run + j // 16)
                weight = d * np.float32(scale & 15) * np.float32(q[j]) - dmin * np.float32(scale >> 4)
                store_f32(out, out_offset + b * QK + 32 * run + j, weight)


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 84) times one token: exact integer sums in a block, blocks in ascending order."""
    d, dmin = read_f16(blocks, D)[:, 0], read_f16(blocks, DMIN)[:, 0]
    scales = blocks[:, SCALES:QS].astype(np.int32)
    q = unpack_quants_ref(blocks[:, QS:D]).astype(np.int32)  # (n, 16, 16)
    s = ((q * x.q.reshape(-1, 16, 16)).sum(2) * (scales & 15)).sum(1)  # (n,)
    m = (x.sums.reshape(-1, 16) * (scales >> 4)).sum(1)
    acc = np.float32(0)
    for b in range(len(blocks)):
        acc = fma_ref(x.d[b], fma_ref(d[b], np.float32(s[b]), -(dmin[b] * np.float32(m[b]))), acc)
    return acc


@inlined
def vec_dot(w, offset, num_blocks, x, token):
    acc = np.float32(0)
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        column = token * num_blocks + b
        packed = load_u8x16(w, start + SCALES)
        scales, minimums = widen_u8x16(packed & 15), widen_u8x16(packed >> 4)
        total = i32x8(0)
        for run in range(8):
            # 2 * 3 * 127 fits int16; the next 32 elements have other scales.
            products = maddubs(quants(w, start + QS, run), load_i8x32(x.q, column * QK + 32 * run))
            total += madd(products, scale_pair(scales, run))
        s = np.float32(sum_i32x8(total))
        m = np.float32(sum_i32x8(madd(minimums, load_i16x16(x.sums, column * 16))))
        block = fma_f32(load_f16(w, start + D), s, -(load_f16(w, start + DMIN) * m))
        acc = fma_f32(load_f32(x.d, column), block, acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    d = load_words(w, start + D, stride)
    store_rows(panel.d, index, half_of_words(d, 0))
    store_rows(panel.dmin, index, half_of_words(d, 1))
    scales = interleave_16(w, start + SCALES, stride)
    store_rows(panel.scales, index, spread(scales & 15, False))
    store_rows(panel.factors, index, spread_pairs(scales >> 4, False))


@inlined
def unpack_quants(w, start, stride, group):
    q = interleave_32(w, start + QS + 32 * group, stride)
    return concat(concat(q & 3, q >> 2 & 3), concat(q >> 4 & 3, q >> 6))


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=2, steps=4, scales=2, factor=None, has_minimum=True)

FORMAT = Format("Q2_K", 10, QK, TYPE_SIZE, 256, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
