"""Q4_K: 256 weights of 4 bits in 8 sub-blocks of 32, each with a 6-bit scale and a 6-bit minimum.

::

    bytes 0-1     d       float16    scale of the scales
    bytes 2-3     dmin    float16    scale of the minimums
    bytes 4-15    scales  uint8[12]  scale and minimum of 8 sub-blocks, 6 bits each (see `unpack_scales_ref`)
    bytes 16-143  qs      uint8[128] 32 bytes a pair of sub-blocks: low nibbles the first, high nibbles the second

    weight = d * scale[sub] * q - dmin * minimum[sub]

4.5 bits a weight. Layout: ggml's ``block_q4_K``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    bytes_to_i16x8,
    concat,
    fma_f32,
    half_of_words,
    i16x16,
    i32x8,
    interleave_16,
    interleave_32,
    load_f16,
    load_f32,
    load_i8x32,
    load_i16x16,
    load_u8x32,
    load_u32,
    madd,
    madd_i16x8,
    maddubs,
    pair_sums,
    part,
    spread,
    store_f32,
    store_rows,
    sum_i32x4,
    sum_i32x8,
)
from .base import Q8, Format, fma_ref, read_f16

QK, TYPE_SIZE = 256, 144
SCALES, QS = 4, 16  # byte offsets
assert TYPE_SIZE == QS + QK // 2


def unpack_scales_ref(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 12) uint8 -> scales and minimums, (n, 8) each, 0..63.

    Bytes 0-3 hold scales 0-3 in their low 6 bits, bytes 4-7 minimums 0-3. Bytes 8-11 hold the low 4 bits of scales
    (low nibble) and minimums (high nibble) 4-7, whose upper 2 bits are the upper bits of bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6 << 4)], axis=1)
    minimums = np.concatenate([second & 63, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales, minimums


def unpack_quants_ref(qs: np.ndarray) -> np.ndarray:
    """(n, 128) uint8 -> (n, 8, 32), 0..15"""
    pairs = qs.reshape(-1, 4, 1, 32)
    return np.concatenate([pairs & 15, pairs >> 4], axis=2).reshape(-1, 8, 32)


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 144) uint8 -> (n, 256) float32"""
    scales, minimums = unpack_scales_ref(blocks[:, SCALES:QS])
    d = read_f16(blocks, 0) * scales.astype(np.float32)  # (n, 8)
    dmin = read_f16(blocks, 2) * minimums.astype(np.float32)
    q = unpack_quants_ref(blocks[:, QS:]).astype(np.float32)
    return (d[:, :, None] * q - dmin[:, :, None]).reshape(-1, QK)


@inlined
def unpack_scales(w, start):
    """The 8 scales and 8 minimums of the block at `start`, each as two words of 4 bytes."""
    first, second, third = load_u32(w, start), load_u32(w, start + 4), load_u32(w, start + 8)
    low6, low4, low2 = np.uint32(0x3F3F3F3F), np.uint32(0x0F0F0F0F), np.uint32(0x03030303)
    four, six = np.uint32(4), np.uint32(6)
    scales = first & low6, (third & low4) | (((first >> six) & low2) << four)
    minimums = second & low6, ((third >> four) & low4) | (((second >> six) & low2) << four)
    return scales, minimums


@inlined
def scale_of(d, packed, sub):
    """d times scale (or minimum) `sub` of the two words that `unpack_scales` gives."""
    return d * np.float32((packed[sub >> 2] >> np.uint32(8 * (sub & 3))) & np.uint32(0xFF))


@inlined
def quants(w, start, sub):
    """The elements of sub-block `sub`, 0..15, when the block's qs lie at `start`."""
    return load_u8x32(w, start + 32 * (sub >> 1)) >> 4 * (sub & 1) & 15


@inlined
def minimum_sum(minimums, x, column):
    """Exact sum over the sub-blocks of minimum times the sum of its 32 elements of block `column` of x."""
    sums = pair_sums(load_i16x16(x.sums, 16 * column))
    return sum_i32x4(madd_i16x8(bytes_to_i16x8(minimums[0], minimums[1]), sums))


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d, dmin = load_f16(w, start), load_f16(w, start + 2)
        scales, minimums = unpack_scales(w, start + SCALES)
        for sub in range(8):
            scale, minimum = scale_of(d, scales, sub), scale_of(dmin, minimums, sub)
            q = quants(w, start + QS, sub)
            for j in range(32):
                store_f32(out, out_offset + b * QK + 32 * sub + j, scale * np.float32(q[j]) - minimum)


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 144) times one token: exact integer sums in a block, blocks in ascending order."""
    d, dmin = read_f16(blocks, 0)[:, 0], read_f16(blocks, 2)[:, 0]
    scales, minimums = unpack_scales_ref(blocks[:, SCALES:QS])
    q = unpack_quants_ref(blocks[:, QS:]).astype(np.int32)  # (n, 8, 32)
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
            # 2 * 15 * 127 fits int16; the next 32 elements have another scale.
            products = maddubs(quants(w, start + QS, sub), load_i8x32(x.q, column * QK + 32 * sub))
            total += madd(products, i16x16(scales8[sub]))
        s, m = np.float32(sum_i32x8(total)), np.float32(minimum_sum(minimums, x, column))
        block = fma_f32(load_f16(w, start), s, -(load_f16(w, start + 2) * m))
        acc = fma_f32(load_f32(x.d, column), block, acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    """Everything but the quants of a block of eight rows, as block `index` of the panel's buffers."""
    words = interleave_16(w, start, stride)  # d and dmin, then the scales
    store_rows(panel.d, index, half_of_words(part(words, 0), 0))
    store_rows(panel.dmin, index, half_of_words(part(words, 0), 1))
    first, second, third = part(words, 1), part(words, 2), part(words, 3)
    store_rows(panel.scales, index, spread(concat(first & 63, third & 15 | first >> 6 << 4), False))
    store_rows(panel.factors, index, spread(concat(second & 63, third >> 4 | second >> 6 << 4), False))


@inlined
def unpack_quants(w, start, stride, group):
    q = interleave_32(w, start + QS + 32 * group, stride)
    return concat(q & 15, q >> 4)


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=4, steps=8, scales=1, factor=None, has_minimum=True)

FORMAT = Format("Q4_K", 12, QK, TYPE_SIZE, 256, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
