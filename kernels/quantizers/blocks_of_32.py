"""Formats of 32 weights a block: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and IQ4_NL.

Each function takes x (n_blocks, 32) float32, the importance w of its elements, and what is known of the matrix's inputs
(see the package), and returns the blocks (n_blocks, type_size) uint8, laid out as `formats` describes, and the sum of
squares of what they are off.
"""

from __future__ import annotations

import numpy as np

from .feedback import InputMoments, round_weights, round_weights_to_table
from .packing import Quantized, around, halves, pack_nibbles
from .search import fit_scales, fit_scales_and_offsets
from .table_search import TABLE_LEVELS, fit_table_scales

__all__ = [
    "quantize_iq4_nl",
    "quantize_q4_0",
    "quantize_q4_1",
    "quantize_q5_0",
    "quantize_q5_1",
    "quantize_q8_0",
]


def pack_fifth_bits(q: np.ndarray) -> np.ndarray:
    """(n, 32), 0..31 -> (n, 4) uint8: bit j of the 32 is bit 4 of q[j]"""
    return np.packbits(q.view(np.uint8) >> 4, axis=1, bitorder="little")


def _symmetric(
    x: np.ndarray, w: np.ndarray, low: int, high: int, levels: np.ndarray, moments: InputMoments | None = None
):
    """Bytes of d (n, 2), q + -low (n, 32), and the error."""
    scales = np.empty(len(x), np.float32)
    fit_scales(x, w, np.float32(low), np.float32(high), levels, scales)
    d_bytes, d = halves(scales)
    q = np.empty(x.shape, np.int8)
    error = round_weights(x, d, np.zeros_like(d), low, high, q, moments)
    return d_bytes, q, error


def _with_offset(x: np.ndarray, w: np.ndarray, high: int, levels: np.ndarray, moments: InputMoments | None):
    """Bytes of d and m (n, 4), q (n, 32), and the error."""
    scales, offsets = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    fit_scales_and_offsets(x, w, np.float32(high), levels, np.float32(np.inf), scales, offsets)
    (d_bytes, d), (m_bytes, m) = halves(scales), halves(offsets)
    q = np.empty(x.shape, np.int8)
    error = round_weights(x, d, m, 0, high, q, moments)
    return np.concatenate([d_bytes, m_bytes], axis=1), q, error


def quantize_q4_0(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    d, q, error = _symmetric(x, w, -8, 7, around(-8, 1.8, 0.2), moments)
    return np.concatenate([d, pack_nibbles(q + np.int8(8))], axis=1), error


def quantize_q5_0(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    d, q, error = _symmetric(x, w, -16, 15, around(-16, 1.8, 0.2), moments)
    q += np.int8(16)
    return np.concatenate([d, pack_fifth_bits(q), pack_nibbles(q & 15)], axis=1), error


def quantize_q8_0(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    d, q, error = _symmetric(x, w, -127, 127, around(127, 0.0, 1.0))
    return np.concatenate([d, q.view(np.uint8)], axis=1), error


def quantize_q4_1(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    header, q, error = _with_offset(x, w, 15, around(15, 1.0, 0.1), moments)
    return np.concatenate([header, pack_nibbles(q)], axis=1), error


def quantize_q5_1(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    header, q, error = _with_offset(x, w, 31, around(31, 1.0, 0.1), moments)
    return np.concatenate([header, pack_fifth_bits(q), pack_nibbles(q & 15)], axis=1), error


def quantize_iq4_nl(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    scales = np.empty(len(x), np.float32)
    fit_table_scales(x, w, TABLE_LEVELS, scales)
    d_bytes, d = halves(scales)
    q = np.empty(x.shape, np.int8)
    error = round_weights_to_table(x, d, q, moments)
    return np.concatenate([d_bytes, pack_nibbles(q)], axis=1), error
