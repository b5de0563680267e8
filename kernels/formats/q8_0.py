"""Q8_0: 32 weights of 8 bits and a scale.

::

    bytes 0-1    d    float16   scale
    bytes 2-33   qs   int8[32]  weight j = d * qs[j]

8.5 bits a weight. Layout: ggml's ``block_q8_0``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..panel import Unpacked
from ..simd import (
    fma_f32,
    interleave_32,
    load_f16,
    load_f32,
    load_halves,
    load_i8,
    load_i8x32,
    store_f32,
    store_rows,
)
from .base import Q8, Format, dot_32_signed, fma_ref, read_f16

QK, TYPE_SIZE = 32, 34
assert TYPE_SIZE == 2 + QK


def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 34) uint8 -> (n, 32) float32"""
    return read_f16(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


@inlined
def dequantize_row(w, offset, num_blocks, out, out_offset):
    for b in range(num_blocks):
        start = offset + b * TYPE_SIZE
        d = load_f16(w, start)
        for j in range(QK):
            store_f32(out, out_offset + b * QK + j, d * np.float32(load_i8(w, start + 2 + j)))


def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
    """One row (n, 34) times one token: exact integer sums in a block, blocks in ascending order."""
    d = read_f16(blocks, 0)[:, 0]
    q = blocks[:, 2:].view(np.int8).astype(np.int32)  # (n, 32)
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
        s = dot_32_signed(load_i8x32(w, start + 2), x, column)
        acc = fma_f32(load_f32(x.d, column), load_f16(w, start) * np.float32(s), acc)
    return acc


@inlined
def unpack_header(w, start, stride, panel, index):
    store_rows(panel.d, index, load_halves(w, start, stride))


@inlined
def unpack_quants(w, start, stride, group):
    return interleave_32(w, start + 2, stride)


UNPACKED = Unpacked(unpack_header, unpack_quants, groups=1, steps=1, is_signed=True, quants_at=2)

FORMAT = Format("Q8_0", 8, QK, TYPE_SIZE, 32, dequantize_ref, dequantize_row, vec_dot_ref, vec_dot, UNPACKED)
