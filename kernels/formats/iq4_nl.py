"""IQ4_NL: 32 weights of 4 bits, indices into 16 unevenly spaced values, and a scale.

::

    bytes 0-1   d   float16    scale
    bytes 2-17  qs  uint8[16]  low nibbles: q[0] to q[15], high nibbles: q[16] to q[31]

    weight j = d * VALUES[q[j]]

4.5 bits a weight. Layout and values: ggml's ``block_iq4_nl`` and ``kvalues_iq4nl``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    concat,
    fma_f32,
    half_of_words,
    interleave_16,
    load_f16,
    load_f32,
    load_i8x16,
    lookup,
    lookup_wide,
    part,
    store_f32,
    store_rows,
)
from .base import Q8, Format, dot_32_signed, fma_ref, load_nibbles, nibbles_ref, read_f16

QK, TYPE_SIZE = 32, 18
QS = 2  # byte offset
assert TYPE_SIZE == QS + QK // 2

VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def unpack_quants_ref(packed: np.ndarray) -> np.ndarray:
    """(..., 16) uint8 -> (..., 32) int8, -127..113"""
    return VALUES[nibbles_ref(packed)]


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 18) uint8 -> (n, 32) float32"""
    return read_f16(blocks, 0) * unpack_quants_ref(blocks[:, QS:]).astype(np.float32)


@inlined
def quants(w, start):
    """The 32 elements, -127..113, whose 16 bytes lie at `start`."""
    return lookup(load_i8x16(VALUES, 0), load_nibbles(w, start))


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d = load_f16(w, start)
        q = quants(w, start + QS)
        for j in range(QK):
            store_f32(out, out_offset + b * QK + j, d * np.float32(q[j]))


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 18) times one token: exact integer sums in a block, blocks in ascending order."""
    d = read_f16(blocks, 0)[:, 0]
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
        s = dot_32_signed(quants(w, start + QS), x, column)
        acc = fma_f32(load_f32(x.d, column), load_f16(w, start) * np.float32(s), acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    store_rows(panel.d, index, half_of_words(part(interleave_16(w, start, stride), 0), 0))


@inlined
def unpack_quants(w, start, stride, group):
    q = interleave_16(w, start + QS, stride)
    return lookup_wide(load_i8x16(VALUES, 0), concat(q & 15, q >> 4))


@inlined
def row_quants(w, start):
    return quants(w, start + QS)


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=1, steps=1, is_signed=True, row_quants=row_quants)

FORMAT = Format("IQ4_NL", 20, QK, TYPE_SIZE, 32, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
