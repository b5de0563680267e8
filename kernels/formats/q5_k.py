"""Q5_K: 256 weights of 5 bits in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum.

::

    bytes 0-1     d       float16    scale of the scales
    bytes 2-3     dmin    float16    scale of the minimums
    bytes 4-15    scales  uint8[12]  scale and minimum of 8 sub-blocks, packed as in Q4_K
    bytes 16-47   qh      uint8[32]  bit 4 of q: bit `sub` of byte j belongs to element j of sub-block `sub`
    bytes 48-175  qs      uint8[128] bits 0 to 3 of q, packed as in Q4_K

    weight = d * scale[sub] * q - dmin * minimum[sub]

5.5 bits a weight. Layout: ggml's ``block_q5_K``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    bytes_to_i16x8,
    concat,
    fma_f32,
    i16x16,
    i32x8,
    interleave_32,
    load_f16,
    load_f32,
    load_i8x32,
    load_u8x32,
    madd,
    maddubs,
    store_f32,
    sum_i32x8,
)
from . import q4_k
from .base import Q8, Format, fma_ref, read_f16
from .q4_k import minimum_sum, scale_of, unpack_header, unpack_scales, unpack_scales_ref

QK, TYPE_SIZE = 256, 176
SCALES, QH, QS = 4, 16, 48  # byte offsets
assert TYPE_SIZE == QS + QK // 2


def unpack_quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 176) uint8 -> (n, 8, 32), 0..31"""
    high = blocks[:, None, QH:QS] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return q4_k.unpack_quants_ref(blocks[:, QS:]) | high << 4


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 176) uint8 -> (n, 256) float32"""
    scales, minimums = unpack_scales_ref(blocks[:, SCALES:QH])
    d = read_f16(blocks, 0) * scales.astype(np.float32)  # (n, 8)
    dmin = read_f16(blocks, 2) * minimums.astype(np.float32)
    q = unpack_quants_ref(blocks).astype(np.float32)
    return (d[:, :, None] * q - dmin[:, :, None]).reshape(-1, QK)


@inlined
def quants(w, start, sub):
    """The elements of sub-block `sub` of the block at `start`, 0..31."""
    high = load_u8x32(w, start + QH) >> sub & 1
    return q4_k.quants(w, start + QS, sub) | high << 4


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d, dmin = load_f16(w, start), load_f16(w, start + 2)
        scales, minimums = unpack_scales(w, start + SCALES)
        for sub in range(8):
            scale, minimum = scale_of(d, scales, sub), scale_of(dmin, minimums, sub)
            q = quants(w, start, sub)
            for j in range(32):
                store_f32(out, out_offset + b * QK + 32 * sub + j, scale * np.float32(q[j]) - minimum)


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 176) times one token: exact integer sums in a block, blocks in ascending order."""
    d, dmin = read_f16(blocks, 0)[:, 0], read_f16(blocks, 2)[:, 0]
    scales, minimums = unpack_scales_ref(blocks[:, SCALES:QH])
    q = unpack_quants_ref(blocks).astype(np.int32)  # (n, 8, 32)
    s = ((q * x.q.reshape(-1, 8, 32)).sum(2) * scales).sum(1)  # (n,)
    m = (x.sums.reshape(-1, 8, 2).sum(2, dtype=np.int32) * minimums).sum(1)
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
        scales, minimums = unpack_scales(w, start + SCALES)
        scales8 = bytes_to_i16x8(scales[0], scales[1])
        total = i32x8(0)
        for sub in range(8):
            # 2 * 31 * 127 fits int16; the next 32 elements have another scale.
            products = maddubs(quants(w, start, sub), load_i8x32(x.q, column * QK + 32 * sub))
            total += madd(products, i16x16(scales8[sub]))
        s, m = np.float32(sum_i32x8(total)), np.float32(minimum_sum(minimums, x, column))
        block = fma_f32(load_f16(w, start), s, -(load_f16(w, start + 2) * m))
        acc = fma_f32(load_f32(x.d, column), block, acc)
    return acc


@inlined
def unpack_quants(w, start, stride, group):
    q = interleave_32(w, start + QS + 32 * group, stride)
    high = interleave_32(w, start + QH, stride) >> 2 * group
    return concat(q & 15, q >> 4) | concat(high & 1, high >> 1 & 1) << 4


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=4, steps=4, scales=1, factor=None, has_minimum=True)

FORMAT = Format("Q5_K", 13, QK, TYPE_SIZE, 256, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
