"""TQ2_0: 256 weights of 2 bits, meant for -1, 0 and 1, and a scale.

::

    bytes 0-63   qs  uint8[64]  packed as in Q2_K
    bytes 64-65  d   float16    scale

    weight j = d * (q[j] - 1)

2.0625 bits a weight. Layout: ggml's ``block_tq2_0``.
"""

from __future__ import annotations

import numpy as np

from ..cache import inlined
from ..simd import load_halves, store_rows
from . import q2_k
from .base import read_f16
from .runs import run_format

QK, TYPE_SIZE = 256, 66
QS, D = 0, 64  # byte offsets
assert TYPE_SIZE == D + 2
OFFSET = 1


def d_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 66) uint8 -> (n,) float32"""
    return read_f16(blocks, D)[:, 0]


def quants_ref(blocks: np.ndarray) -> np.ndarray:
    """blocks (n, 66) uint8 -> (n, 256) int8, -1..2"""
    return q2_k.unpack_quants_ref(blocks[:, QS:D]).reshape(-1, QK).astype(np.int8) - np.int8(OFFSET)


@inlined
def unpack_header(w, start, stride, panel, index):
    store_rows(panel.d, index, load_halves(w, start + D, stride))


@inlined
def quants(w, start, run):
    return q2_k.quants(w, start + QS, run)


@inlined
def unpack_quants(w, start, stride, group):
    return q2_k.unpack_quants(w, start + QS - q2_k.QS, stride, group)


FORMAT = run_format(
    "TQ2_0", 35, QK, TYPE_SIZE, scales=0, offset=OFFSET, d_ref=d_ref, scales_ref=None, quants_ref=quants_ref,
    unpack_header=unpack_header, quants=quants, unpack_quants=unpack_quants, groups=2,
)  # fmt: skip
