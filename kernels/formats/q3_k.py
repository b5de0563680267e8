"""Q3_K: 256 weights of 3 bits in 16 sub-blocks of 16, each with a 6-bit scale.

::

    bytes 0-31     hmask   uint8[32] bit 2 of q: bit `run` of byte j belongs to element j of run `run` of 32
    bytes 32-95    qs      uint8[64] bits 0 and 1 of q, packed as in Q2_K
    bytes 96-107   scales  uint8[12] 16 scales of 6 bits, 32 too large (see `unpack_scales_ref`)
    bytes 108-109  d       float16   scale of the scales

    weight = d * (scale[sub] - 32) * (q - 4)

3.4375 bits a weight. Layout: ggml's ``block_q3_K``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    as_bytes,
    bytes_to_i16x8,
    concat,
    concat_i16,
    fma_f32,
    i32x8,
    interleave_32,
    load_f16,
    load_f32,
    load_halves,
    load_i8x32,
    load_i16x16,
    load_u8x32,
    load_u32,
    load_words,
    madd,
    maddubs,
    spread,
    spread_pairs,
    store_f32,
    store_rows,
    sum_i32x8,
)
from . import q2_k
from .base import Q8, Format, fma_ref, read_f16, scale_pair

QK, TYPE_SIZE = 256, 110
HMASK, QS, SCALES, D = 0, 32, 96, 108  # byte offsets
assert TYPE_SIZE == D + 2


def unpack_scales_ref(packed: np.ndarray) -> np.ndarray:
    """(n, 12) uint8 -> (n, 16) int32, -32..31.

    The low nibbles of bytes 0-7 are the lower 4 bits of scales 0-7, the high nibbles those of scales 8-15. Bits 2 * i
    and 2 * i + 1 of bytes 8-11 are the upper 2 bits of scales 4 * i to 4 * i + 3.
    """
    low = np.concatenate([packed[:, :8] & 15, packed[:, :8] >> 4], axis=1)
    high = (packed[:, None, 8:] >> np.array([0, 2, 4, 6], np.uint8)[:, None] & 3).reshape(-1, 16)
    return (low | high << 4).astype(np.int32) - 32


def unpack_quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 110) uint8 -> (n, 16, 16), 0..7"""
    high = blocks[:, None, HMASK:QS] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return q2_k.unpack_quants_ref(blocks[:, QS:SCALES]) | high.reshape(-1, 16, 16) << 2


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 110) uint8 -> (n, 256) float32"""
    scales = read_f16(blocks, D) * unpack_scales_ref(blocks[:, SCALES:D]).astype(np.float32)  # (n, 16)
    q = unpack_quants_ref(blocks).astype(np.float32) - 4
    return (scales[:, :, None] * q).reshape(-1, QK)


@inlined
def unpack_scales(w, start):
    """The 16 scales, -32..31, of the 12 bytes at `start`, as i16x16."""
    first, second, high = load_u32(w, start), load_u32(w, start + 4), load_u32(w, start + 8)
    low4, low2, four = np.uint32(0x0F0F0F0F), np.uint32(0x03030303), np.uint32(4)
    scales0 = first & low4 | (high & low2) << four
    scales4 = second & low4 | (high >> np.uint32(2) & low2) << four
    scales8 = first >> four & low4 | (high >> four & low2) << four
    scales12 = second >> four & low4 | (high >> np.uint32(6) & low2) << four
    return concat_i16(bytes_to_i16x8(scales0, scales4), bytes_to_i16x8(scales8, scales12)) - 32


@inlined
def quants(w, start, run):
    """Elements 32 * run to 32 * run + 31 of the block at `start`, 0..7."""
    high = load_u8x32(w, start + HMASK) >> run & 1
    return q2_k.quants(w, start + QS, run) | high << 2


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d = load_f16(w, start + D)
        scales = unpack_scales(w, start + SCALES)
        for run in range(8):
            q = quants(w, start, run)
            for j in range(32):
                scale = d * np.float32(scales[2 * run + j // 16])
                store_f32(out, out_offset + b * QK + 32 * run + j, scale * np.float32(np.int32(q[j]) - 4))


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 110) times one token: exact integer sums in a block, blocks in ascending order."""
    d = read_f16(blocks, D)[:, 0]
    scales = unpack_scales_ref(blocks[:, SCALES:D])
    q = unpack_quants_ref(blocks).astype(np.int32) - 4  # (n, 16, 16)
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
        scales = unpack_scales(w, start + SCALES)
        total = i32x8(0)
        for run in range(8):
            # 2 * 7 * 127 fits int16; the next 32 elements have other scales.
            products = maddubs(quants(w, start, run), load_i8x32(x.q, column * QK + 32 * run))
            total += madd(products, scale_pair(scales, run))
        offsets = madd(scales, load_i16x16(x.sums, column * 16))  # the 4 in q - 4, to be multiplied by
        s = sum_i32x8(total - (offsets << 2))
        acc = fma_f32(load_f32(x.d, column), load_f16(w, start + D) * np.float32(s), acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    store_rows(panel.d, index, load_halves(w, start + D, stride))
    first, second = as_bytes(load_words(w, start + SCALES, stride)), as_bytes(load_words(w, start + SCALES + 4, stride))
    high = as_bytes(load_words(w, start + SCALES + 8, stride))
    low_half = concat(first & 15 | (high & 3) << 4, second & 15 | (high >> 2 & 3) << 4)
    high_half = concat(first >> 4 | (high >> 4 & 3) << 4, second >> 4 | high >> 6 << 4)
    scales = concat(low_half, high_half)
    store_rows(panel.scales, index, spread(scales, False) - 32)
    store_rows(panel.factors, index, (spread_pairs(scales, False) - 32) << 2)  # the 4 in q - 4


@inlined
def unpack_quants(w, start, stride, group):
    h = interleave_32(w, start + HMASK, stride) >> 4 * group
    high = concat(concat(h & 1, h >> 1 & 1), concat(h >> 2 & 1, h >> 3 & 1))
    return q2_k.unpack_quants(w, start + QS - q2_k.QS, stride, group) | high << 2


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=2, steps=4, scales=2, factor=None, offset=4)

FORMAT = Format("Q3_K", 11, QK, TYPE_SIZE, 256, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
