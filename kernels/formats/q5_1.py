"""Q5_1: 32 weights of 5 bits and a scale and a minimum.

::

    bytes 0-1    d    float16    scale
    bytes 2-3    m    float16    minimum
    bytes 4-7    qh   uint8[4]   bit j: bit 4 of q[j]
    bytes 8-23   qs   uint8[16]  low nibbles: lower 4 bits of q[0] to q[15], high nibbles: of q[16] to q[31]

    weight j = d * q[j] + m

6 bits a weight. Layout: ggml's ``block_q5_1``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    as_words,
    bits_to_bytes,
    concat,
    fma_f32,
    half_of_words,
    interleave_16,
    load_f16,
    load_f32,
    load_u32,
    part,
    spread_bits,
    store_f32,
    store_rows,
)
from .base import Q8, Format, dot_32, fma_ref, load_nibbles, nibbles_ref, read_f16, sum_32

QK, TYPE_SIZE = 32, 24
QH, QS = 4, 8  # byte offsets
assert TYPE_SIZE == QS + QK // 2


def unpack_quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 24) uint8 -> (n, 32), 0..31"""
    high = np.unpackbits(blocks[:, QH:QS], axis=1, bitorder="little")
    return nibbles_ref(blocks[:, QS:]) | high << 4


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 24) uint8 -> (n, 32) float32"""
    d, m = read_f16(blocks, 0), read_f16(blocks, 2)
    return d * unpack_quants_ref(blocks).astype(np.float32) + m


@inlined
def quants(w, start):
    """The elements of the block at `start`, 0..31."""
    return load_nibbles(w, start + QS) | bits_to_bytes(load_u32(w, start + QH)) & 16


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d, m = load_f16(w, start), load_f16(w, start + 2)
        q = quants(w, start)
        for j in range(QK):
            store_f32(out, out_offset + b * QK + j, d * np.float32(q[j]) + m)


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 24) times one token: exact integer sums in a block, blocks in ascending order."""
    d, m = read_f16(blocks, 0)[:, 0], read_f16(blocks, 2)[:, 0]
    q, xq = unpack_quants_ref(blocks).astype(np.int32), x.q.reshape(-1, QK).astype(np.int32)
    s, total = (q * xq).sum(1), xq.sum(1)  # (n,)
    acc = np.float32(0)
    for b in range(len(blocks)):
        acc = fma_ref(x.d[b], fma_ref(d[b], np.float32(s[b]), m[b] * np.float32(total[b])), acc)
    return acc


@inlined
def vec_dot(w, offset, num_blocks, x, token):
    acc = np.float32(0)
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        column = token * num_blocks + b
        s = np.float32(dot_32(quants(w, start), x, column))
        minimum = load_f16(w, start + 2) * np.float32(sum_32(x, column))
        acc = fma_f32(load_f32(x.d, column), fma_f32(load_f16(w, start), s, minimum), acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    first = part(interleave_16(w, start, stride), 0)
    store_rows(panel.d, index, half_of_words(first, 0))
    store_rows(panel.dmin, index, -half_of_words(first, 1))


@inlined
def unpack_quants(w, start, stride, group):
    q = interleave_16(w, start + QS, stride)
    return concat(q & 15, q >> 4) | spread_bits(as_words(part(interleave_16(w, start, stride), 1)))


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=1, steps=4, factor=1, has_minimum=True, row_quants=quants)

FORMAT = Format("Q5_1", 7, QK, TYPE_SIZE, 32, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
