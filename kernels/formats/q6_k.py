"""Q6_K: 256 weights of 6 bits in 16 sub-blocks of 16, each with an 8-bit scale.

::

    bytes 0-127    ql      uint8[128] lower 4 bits, 64 bytes a half of the block (see `unpack_quants_ref`)
    bytes 128-191  qh      uint8[64]  upper 2 bits, 32 bytes a half
    bytes 192-207  scales  int8[16]
    bytes 208-209  d       float16    scale of the scales

    weight = d * scales[sub] * (q - 32)

6.5625 bits a weight. Layout: ggml's ``block_q6_K``.
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
    load_i8,
    load_i8x16,
    load_i8x32,
    load_i16x16,
    load_u8x32,
    madd,
    maddubs,
    part,
    spread,
    spread_pairs,
    store_f32,
    store_rows,
    sum_i32x8,
    widen_i8x16,
)
from .base import Q8, Format, fma_ref, read_f16, scale_pair

QK, TYPE_SIZE = 256, 210
QL, QH, SCALES, D = 0, 128, 192, 208  # byte offsets
assert TYPE_SIZE == D + 2


def unpack_quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 210) uint8 -> (n, 16, 16), 0..63.

    A half of 128 elements is four runs of 32. Of its 64 bytes ql the low nibbles hold the lower bits of runs 0 and 1,
    the high nibbles those of runs 2 and 3; of its 32 bytes qh, bits 2 * run and 2 * run + 1 hold the upper bits.
    """
    ql = blocks[:, QL:QH].reshape(-1, 2, 1, 64)
    low = np.concatenate([ql & 15, ql >> 4], axis=2).reshape(-1, 2, 4, 32)
    high = blocks[:, QH:SCALES].reshape(-1, 2, 1, 32) >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3
    return (low | high << 4).reshape(-1, 16, 16)


def unpack_scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 210) uint8 -> (n, 16) int8"""
    return blocks[:, SCALES:D].view(np.int8)


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 210) uint8 -> (n, 256) float32"""
    scales = read_f16(blocks, D) * unpack_scales_ref(blocks).astype(np.float32)  # (n, 16)
    q = unpack_quants_ref(blocks).astype(np.float32) - 32
    return (scales[:, :, None] * q).reshape(-1, QK)


@inlined
def quants(w, start, run):
    """Elements 32 * run to 32 * run + 31 of the block at `start`, 0..63."""
    half, in_half = run >> 2, run & 3
    low = load_u8x32(w, start + QL + 64 * half + 32 * (in_half & 1)) >> 4 * (in_half >> 1) & 15
    high = load_u8x32(w, start + QH + 32 * half) >> 2 * in_half & 3
    return low | high << 4


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d = load_f16(w, start + D)
        for run in range(8):
            q = quants(w, start, run)
            for j in range(32):
                scale = d * np.float32(load_i8(w, start + SCALES + 2 * run + j // 16))
                store_f32(out, out_offset + b * QK + 32 * run + j, scale * np.float32(np.int32(q[j]) - 32))


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 210) times one token: exact integer sums in a block, blocks in ascending order."""
    d = read_f16(blocks, D)[:, 0]
    scales = unpack_scales_ref(blocks).astype(np.int32)
    q = unpack_quants_ref(blocks).astype(np.int32) - 32  # (n, 16, 16)
    s = ((q * x.q.reshape(-1, 16, 16)).sum(2) * scales).sum(1)  # (n,)
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
        scales = widen_i8x16(load_i8x16(w, start + SCALES))
        total = i32x8(0)
        for run in range(8):
            # 2 * 63 * 127 fits int16; the next 32 elements have other scales.
            products = maddubs(quants(w, start, run), load_i8x32(x.q, column * QK + 32 * run))
            total += madd(products, scale_pair(scales, run))
        offsets = madd(scales, load_i16x16(x.sums, column * 16))  # the 32 in q - 32, to be multiplied by
        s = sum_i32x8(total - (offsets << 5))
        acc = fma_f32(load_f32(x.d, column), load_f16(w, start + D) * np.float32(s), acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    store_rows(panel.d, index, half_of_words(part(interleave_16(w, start + D - 14, stride), 3), 1))
    scales = interleave_16(w, start + SCALES, stride)
    store_rows(panel.scales, index, spread(scales, True))
    store_rows(panel.factors, index, spread_pairs(scales, True) << 5)  # the 32 in q - 32


@inlined
def unpack_quants(w, start, stride, group):
    high = interleave_32(w, start + QH + 32 * group, stride)
    low0 = interleave_32(w, start + QL + 64 * group, stride)
    low1 = interleave_32(w, start + QL + 64 * group + 32, stride)
    runs01 = concat(low0 & 15, low1 & 15) | concat(high & 3, high >> 2 & 3) << 4
    runs23 = concat(low0 >> 4, low1 >> 4) | concat(high & 48, high >> 2 & 48)
    return concat(runs01, runs23)


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=2, steps=2, scales=2, factor=None, offset=32)

FORMAT = Format("Q6_K", 14, QK, TYPE_SIZE, 256, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
