"""IQ4_XS: 256 weights of 4 bits, indices as in IQ4_NL, in 8 sub-blocks of 32, each with a 6-bit scale.

::

    bytes 0-1    d         float16    scale of the scales
    bytes 2-3    scales_h  uint16     upper 2 bits of each scale, those of sub-block 0 lowest
    bytes 4-7    scales_l  uint8[4]   lower 4 bits of each scale, a nibble each, sub-block 0 lowest
    bytes 8-135  qs        uint8[128] 16 bytes a sub-block, packed as in IQ4_NL

    weight = d * (scale[sub] - 32) * VALUES[q]

4.25 bits a weight. Layout: ggml's ``block_iq4_xs``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    concat,
    fma_f32,
    half_of_words,
    i16x16,
    i32x8,
    load_f16,
    load_f32,
    load_i8,
    load_i8x32,
    load_u8,
    load_u16,
    load_u32,
    load_words,
    madd,
    store_f32,
    store_rows,
    sum_i32x8,
)
from . import iq4_nl
from .base import Q8, Format, fma_ref, maddubs_signed, read_f16
from .iq4_nl import VALUES, quants

QK, TYPE_SIZE = 256, 136
SCALES_H, SCALES_L, QS = 2, 4, 8  # byte offsets
assert TYPE_SIZE == QS + QK // 2


def unpack_scales_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 136) uint8 -> (n, 8) int32, -32..31"""
    high = np.ascontiguousarray(blocks[:, SCALES_H:SCALES_L]).view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
    low = np.ascontiguousarray(blocks[:, SCALES_L:QS]).view("<u4") >> np.arange(0, 32, 4, dtype=np.uint32) & 15
    return (low | high << 4).astype(np.int32) - 32


def unpack_quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 136) uint8 -> (n, 8, 32) int8, -127..113"""
    return iq4_nl.unpack_quants_ref(blocks[:, QS:].reshape(-1, 8, 16))


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 136) uint8 -> (n, 256) float32"""
    scales = read_f16(blocks, 0) * unpack_scales_ref(blocks).astype(np.float32)  # (n, 8)
    return (scales[:, :, None] * unpack_quants_ref(blocks).astype(np.float32)).reshape(-1, QK)


@inlined
def unpack_scale(high, low, sub):
    """Scale `sub`, -32..31, from the words scales_h and scales_l."""
    upper, lower = np.int32(high) >> 2 * sub & 3, np.int64(low) >> 4 * sub & 15
    return np.int16((lower | upper << 4) - 32)


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d, high, low = load_f16(w, start), load_u16(w, start + SCALES_H), load_u32(w, start + SCALES_L)
        for sub in range(8):
            scale = d * np.float32(unpack_scale(high, low, sub))
            first = out_offset + b * QK + 32 * sub
            for j in range(16):
                packed = load_u8(w, start + QS + 16 * sub + j)
                store_f32(out, first + j, scale * np.float32(load_i8(VALUES, packed & 15)))
                store_f32(out, first + j + 16, scale * np.float32(load_i8(VALUES, packed >> 4)))


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 136) times one token: exact integer sums in a block, blocks in ascending order."""
    d = read_f16(blocks, 0)[:, 0]
    scales = unpack_scales_ref(blocks)
    q = unpack_quants_ref(blocks).astype(np.int32)  # (n, 8, 32)
    s = ((q * x.q.reshape(-1, 8, 32)).sum(2) * scales).sum(1)  # (n,)
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
        high, low = load_u16(w, start + SCALES_H), load_u32(w, start + SCALES_L)
        total = i32x8(0)
        for sub in range(8):
            # 2 * 127 * 127 fits int16; the next 32 elements have another scale.
            products = maddubs_signed(quants(w, start + QS + 16 * sub), load_i8x32(x.q, column * QK + 32 * sub))
            total += madd(products, i16x16(unpack_scale(high, low, sub)))
        acc = fma_f32(load_f32(x.d, column), load_f16(w, start) * np.float32(sum_i32x8(total)), acc)
    return acc


@inlined
def scale_twice(low, high, sub):
    """Scale `sub` of eight rows, twice as int16."""
    scale = (low >> 4 * sub & 15 | (high >> 2 * sub & 3) << 4) - 32
    return scale & 0xFFFF | scale << 16


@inlined
def four_scales(low, high, sub):
    """Scales `sub` to `sub` + 3."""
    first = concat(scale_twice(low, high, sub), scale_twice(low, high, sub + 1))
    return concat(first, concat(scale_twice(low, high, sub + 2), scale_twice(low, high, sub + 3)))


@inlined
def unpack_header(w, start, stride, panel, index):
    first, low = load_words(w, start, stride), load_words(w, start + SCALES_L, stride)
    store_rows(panel.d, index, half_of_words(first, 0))
    high = first >> 16
    store_rows(panel.scales, index, concat(four_scales(low, high, 0), four_scales(low, high, 4)))


@inlined
def unpack_quants(w, start, stride, group):
    return iq4_nl.unpack_quants(w, start + QS + 16 * group - iq4_nl.QS, stride, 0)


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=8, steps=1, is_signed=True, scales=1)

FORMAT = Format("IQ4_XS", 23, QK, TYPE_SIZE, 256, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
