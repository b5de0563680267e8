"""Formats of 256 weights a block, whose groups have scales that are quantized in turn: K-quants and IQ4_XS.

First each group gets the scale (and offset) that suits it best, as if it were stored exactly. The scales of a block are
then themselves a group: the same search finds the factor d that they have in common. In the end every weight is
rounded with the scales as they will be read back.

Each function takes x (n_blocks, 256) float32, the importance w of its elements, and what is known of the matrix's
inputs (see the package), and returns the blocks (n_blocks, type_size) uint8, laid out as `formats` describes, and the
sum of squares of what they are off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .feedback import InputMoments, round_weights, round_weights_to_table
from .packing import Quantized, around, halves, pack_nibbles
from .search import fit_scales, fit_scales_and_offsets, round_groups
from .table_search import TABLE_LEVELS, fit_table_scales

__all__ = ["quantize_iq4_xs", "quantize_q2_k", "quantize_q3_k", "quantize_q4_k", "quantize_q5_k", "quantize_q6_k"]


@dataclass(frozen=True)
class Scales:
    """Scales of groups as they are stored: value = d * q."""

    d: np.ndarray  # (n_blocks, 2) uint8, float16
    q: np.ndarray  # (n_blocks, n_groups) int8
    values: np.ndarray  # (n_blocks * n_groups,) float32, as they are read back


def quantize_scales(scales: np.ndarray, w: np.ndarray, low: int, high: int) -> Scales:
    """scales, w : (n_blocks, n_groups) float32, the scales of groups and the importance of each."""
    extreme = low if low < 0 else high
    d = np.empty(len(scales), np.float32)
    fit_scales(scales, w, np.float32(low), np.float32(high), around(extreme, 3.0, 0.25), d)
    d_bytes, d = halves(d)
    q = np.empty(scales.shape, np.int8)
    zeros = np.zeros_like(d)
    round_groups(scales, d, zeros, np.float32(low), np.float32(high), q)
    return Scales(d_bytes, q, (d[:, None] * q).reshape(-1))


def _grouped(x: np.ndarray, w: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x and w as (n, size), and the importance of each group (n_blocks, 256 / size)."""
    groups, weights = x.reshape(-1, size), w.reshape(-1, size)
    return groups, weights, weights.sum(1).reshape(len(x), -1)


def _with_minimums(
    x: np.ndarray,
    w: np.ndarray,
    size: int,
    high: int,
    highest_scale: int,
    levels: np.ndarray,
    moments: InputMoments | None,
):
    """Scales, minimums, q (n_blocks, 256) and the error of x = d scale q - dmin minimum."""
    groups, weights, importance = _grouped(x, w, size)
    scales, offsets = np.empty(len(groups), np.float32), np.empty(len(groups), np.float32)
    fit_scales_and_offsets(groups, weights, np.float32(high), levels, np.float32(0), scales, offsets)
    scale = quantize_scales(scales.reshape(importance.shape), importance, 0, highest_scale)
    minimum = quantize_scales(-offsets.reshape(importance.shape), importance, 0, highest_scale)
    q = np.empty(groups.shape, np.int8)
    error = round_weights(groups, scale.values, -minimum.values, 0, high, q, moments)
    return scale, minimum, q.reshape(x.shape), error


def _symmetric(
    x: np.ndarray, w: np.ndarray, low: int, lowest_scale: int, levels: np.ndarray, moments: InputMoments | None
):
    """Scales, q (n_blocks, 256) within low..-low - 1 and the error of x = d scale q, in groups of 16."""
    groups, weights, importance = _grouped(x, w, 16)
    scales = np.empty(len(groups), np.float32)
    fit_scales(groups, weights, np.float32(low), np.float32(-low - 1), levels, scales)
    scale = quantize_scales(scales.reshape(importance.shape), importance, lowest_scale, -lowest_scale - 1)
    q = np.empty(groups.shape, np.int8)
    error = round_weights(groups, scale.values, np.zeros_like(scales), low, -low - 1, q, moments)
    return scale, q.reshape(x.shape), error


# ---------------------------------------------------------------------------------------------- layouts


def pack_crumbs(q: np.ndarray) -> np.ndarray:
    """(n, 256), 0..3 -> (n, 64) uint8: of each half of 128, four runs of 32 share 32 bytes, the first lowest."""
    runs = q.view(np.uint8).reshape(-1, 2, 4, 32)
    return (runs[:, :, 0] | runs[:, :, 1] << 2 | runs[:, :, 2] << 4 | runs[:, :, 3] << 6).reshape(-1, 64)


def pack_pairs_of_runs(q: np.ndarray) -> np.ndarray:
    """(n, 256), 0..15 -> (n, 128) uint8: runs of 32 in pairs, low nibbles the first, high nibbles the second."""
    return pack_nibbles(q.reshape(-1, 4, 64)).reshape(-1, 128)


def pack_scales_and_minimums(scale: np.ndarray, minimum: np.ndarray) -> np.ndarray:
    """(n, 8) each, 0..63 -> (n, 12) uint8; the inverse of `formats.q4_k.unpack_scales_ref`."""
    s, m = scale.view(np.uint8), minimum.view(np.uint8)
    first = s[:, :4] | s[:, 4:] >> 4 << 6
    second = m[:, :4] | m[:, 4:] >> 4 << 6
    third = s[:, 4:] & 15 | m[:, 4:] << 4
    return np.concatenate([first, second, third], axis=1)


def pack_q3_scales(scale: np.ndarray) -> np.ndarray:
    """(n, 16), -32..31 -> (n, 12) uint8; the inverse of `formats.q3_k.unpack_scales_ref`."""
    s = (scale + np.int8(32)).view(np.uint8)
    low = s[:, :8] & 15 | s[:, 8:] << 4
    high = s.reshape(-1, 4, 4) >> 4
    return np.concatenate([low, high[:, 0] | high[:, 1] << 2 | high[:, 2] << 4 | high[:, 3] << 6], axis=1)


# ---------------------------------------------------------------------------------------------- formats


def quantize_q2_k(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    scale, minimum, q, error = _with_minimums(x, w, 16, 3, 15, around(3, 1.0, 0.1), moments)
    scales = (scale.q | minimum.q << 4).view(np.uint8)
    return np.concatenate([scales, pack_crumbs(q), scale.d, minimum.d], axis=1), error


def quantize_q3_k(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    scale, q, error = _symmetric(x, w, -4, -32, around(-4, 1.5, 0.1), moments)
    q = (q + np.int8(4)).view(np.uint8)
    # Bit `run` of byte j is bit 2 of element j of run `run`.
    hmask = np.packbits(q.reshape(-1, 8, 32) >> 2, axis=1, bitorder="little").reshape(-1, 32)
    return np.concatenate([hmask, pack_crumbs(q & 3), pack_q3_scales(scale.q), scale.d], axis=1), error


def quantize_q4_k(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    scale, minimum, q, error = _with_minimums(x, w, 32, 15, 63, around(15, 1.0, 0.1), moments)
    scales = pack_scales_and_minimums(scale.q, minimum.q)
    return np.concatenate([scale.d, minimum.d, scales, pack_pairs_of_runs(q)], axis=1), error


def quantize_q5_k(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    scale, minimum, q, error = _with_minimums(x, w, 32, 31, 63, around(31, 1.0, 0.1), moments)
    scales = pack_scales_and_minimums(scale.q, minimum.q)
    # Bit `run` of byte j is bit 4 of element j of run `run`.
    qh = np.packbits(q.view(np.uint8).reshape(-1, 8, 32) >> 4, axis=1, bitorder="little").reshape(-1, 32)
    return np.concatenate([scale.d, minimum.d, scales, qh, pack_pairs_of_runs(q & 15)], axis=1), error


def quantize_q6_k(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    scale, q, error = _symmetric(x, w, -32, -128, around(-32, 2.0, 0.2), moments)
    q = (q + np.int8(32)).view(np.uint8)
    # Of each half of 128, the nibbles of the first two runs of 32 are the low ones, those of the others the high ones.
    ql = pack_nibbles((q & 15).reshape(-1, 2, 128)).reshape(-1, 128)
    return np.concatenate([ql, pack_crumbs(q >> 4), scale.q.view(np.uint8), scale.d], axis=1), error


def quantize_iq4_xs(x: np.ndarray, w: np.ndarray, moments: InputMoments | None = None) -> Quantized:
    groups, weights, importance = _grouped(x, w, 32)
    scales = np.empty(len(groups), np.float32)
    fit_table_scales(groups, weights, TABLE_LEVELS, scales)
    scale = quantize_scales(scales.reshape(importance.shape), importance, -32, 31)
    q = np.empty(groups.shape, np.int8)
    error = round_weights_to_table(groups, scale.values, q, moments)
    s = (scale.q + np.int8(32)).view(np.uint8)
    upper = (s.astype(np.uint16) >> 4 << np.arange(0, 16, 2, dtype=np.uint16)).sum(1, dtype=np.uint16)
    lower = s[:, ::2] & 15 | s[:, 1::2] << 4
    header = [scale.d, upper.view(np.uint8).reshape(-1, 2), lower]
    return np.concatenate([*header, pack_nibbles(q).reshape(-1, 128)], axis=1), error
