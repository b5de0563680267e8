"""Formats of small integers in runs of 32 with integer scales, made of what is special to each.

::

    weight = d * scale * (q - offset)        q: 0 to 2 * offset, a scale for each 16 or 32 elements or none at all

A format of this kind brings three readable functions and two compiled ones; everything else follows here. Its `quants`
are those of one row. Where a panel wants eight rows side by side, they are unpacked one after the other and
rearranged: such formats are looked up in tables, element by element or eight at a time, whichever way they lie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from ..cache import INLINED_OPTIONS, inlined
from ..panel import RUN, Panel, Unpacked
from ..simd import (
    TILE_ROWS,
    concat_i16,
    fma_f32,
    i16x8,
    i32x8,
    interleave_32,
    load_f32,
    load_i8x32,
    load_i16,
    local_array,
    madd,
    maddubs,
    spread,
    spread_pairs,
    store,
    store_f32,
    store_rows,
    sum_i32x8,
)
from .base import Q8, Format, fma_ref

# ------------------------------------------------------- a format


def run_format(
    name: str,
    ggml_type: int,
    qk: int,
    type_size: int,
    *,
    scales: int,
    offset: int,
    d_ref: Callable[[np.ndarray], np.ndarray],
    scales_ref: Callable[[np.ndarray], np.ndarray] | None,
    quants_ref: Callable[[np.ndarray], np.ndarray],
    unpack_header: Callable[..., None],
    quants: Callable[..., Any],
    dequantize_ref: Callable[[np.ndarray], np.ndarray] | None = None,
    dequantize_row: Callable[..., None] | None = None,
    unpack_quants: Callable[..., Any] | None = None,
    groups: int = 0,
    wide_scales: bool = False,
) -> Format:
    """The format `name` of blocks of `qk` elements in `type_size` bytes.

    scales : in a run of 32: 0, 1 or 2
    offset : what is subtracted from q; at most 64, so that two products fit int16
    d_ref : blocks (n, type_size) uint8 -> (n,) float32
    scales_ref : blocks -> (n, scales in a block) int32; None without scales
    quants_ref : blocks -> (n, qk) int8, q - offset
    unpack_header : compiled, see `panel.Unpacked`; `store_header` does it
    quants : compiled; (w, start, run) -> u8x32, run `run` of the block at byte `start`, with the offset
    dequantize_ref, dequantize_row : where the floats are not d * scale * (q - offset)
    unpack_quants, groups : where that is faster than by `quants`; see `panel.Unpacked`
    wide_scales : see there
    """
    assert 4 * offset * 127 < 1 << 15
    parts = (d_ref, scales_ref, quants_ref)
    steps = max(steps for steps in (1, 2, 4, 8) if 4 * offset * 127 * steps < 1 << 15)
    unpacked = Unpacked(
        unpack_header,
        unpack_quants or _unpack_quants(quants),
        groups=groups or qk // RUN,
        steps=min(steps, 8 // max(scales, 1)),
        scales=scales,
        factor=None if scales else offset,
        offset=offset if scales else 0,
        wide_scales=wide_scales,
    )
    return Format(
        name,
        ggml_type,
        qk,
        type_size,
        qk,
        dequantize_ref or _dequantize_ref(qk, *parts),
        dequantize_row or _dequantize_row(qk, type_size, scales, offset, unpack_header, quants),
        _vec_dot_ref(qk, *parts),
        _vec_dot(qk, type_size, scales, offset, unpack_header, quants),
        unpacked,
    )


# ------------------------------------------------------- the readable forms


def _dequantize_ref(qk: int, d_ref: Any, scales_ref: Any, quants_ref: Any) -> Callable[[np.ndarray], np.ndarray]:
    def dequantize_ref(blocks: np.ndarray) -> np.ndarray:
        d, q = d_ref(blocks)[:, None], quants_ref(blocks).astype(np.float32)
        if scales_ref is None:
            return d * q
        d = d * scales_ref(blocks).astype(np.float32)
        return np.repeat(d, qk // d.shape[1], axis=1) * q

    return dequantize_ref


def _vec_dot_ref(qk: int, d_ref: Any, scales_ref: Any, quants_ref: Any) -> Callable[..., np.float32]:
    def vec_dot_ref(blocks: np.ndarray, x: Q8) -> np.float32:
        """One row times one token: exact integer sums in a block, blocks in ascending order."""
        scales = np.ones((len(blocks), 1), np.int32) if scales_ref is None else scales_ref(blocks)
        products = quants_ref(blocks).astype(np.int32) * x.q.reshape(-1, qk)
        s = (products.reshape(*scales.shape, -1).sum(2) * scales).sum(1)
        d, acc = d_ref(blocks), np.float32(0)
        for b in range(len(blocks)):
            acc = fma_ref(x.d[b], d[b] * np.float32(s[b]), acc)
        return acc

    return vec_dot_ref


# ------------------------------------------------------- the compiled forms


def store_header(scales: int, offset: int) -> Callable[..., None]:
    """The compiled function (panel, index, d, bytes): write what a block of eight rows has beside its quants.

    d : f32x8; bytes : u8 vector, four scales of each row, then the next four
    """
    spread_factors = spread if scales == 1 else spread_pairs

    @inlined
    def write(panel, index, d, scale_bytes):
        store_rows(panel.d, index, d)
        store_rows(panel.scales, index, spread(scale_bytes, False))
        store_rows(panel.factors, index, spread_factors(scale_bytes, False) * offset)

    return write


def _unpack_quants(quants: Any) -> Callable[..., Any]:
    row_bytes, all_bytes = RUN, 8 * RUN

    def one_row(w, start, stride, group):
        return quants(w, start, group)

    def eight_rows(w, start, stride, group):
        rows = local_array(np.uint8, all_bytes)
        for row in range(8):
            store(rows, row_bytes * row, quants(w, start + row * stride, group))
        return interleave_32(rows, 0, row_bytes)

    def unpack_quants(w, start, stride, group):
        """Compiled code only: see `panel.Unpacked`."""

    @overload(unpack_quants, jit_options=INLINED_OPTIONS)
    def _unpack(w, start, stride, group):
        return one_row if isinstance(stride, types.NoneType) else eight_rows

    return unpack_quants


def _header_maker(qk: int, scales: int) -> Callable[[], Panel]:
    """The compiled function () -> memory for what one block has beside its quants; `unpack_header` fills it."""
    scales_size, factors_size = 2 * TILE_ROWS * max(scales * qk // RUN, 1), 2 * TILE_ROWS * qk // RUN

    @inlined
    def make():
        return Panel(
            local_array(np.uint8, 1),
            local_array(np.int16, scales_size),
            local_array(np.int16, factors_size),
            local_array(np.float32, TILE_ROWS),
            local_array(np.float32, TILE_ROWS),
        )

    return make


def _scale_of(scales: int) -> Callable[..., Any]:
    """The compiled function (header, run, half) -> int16: the scale of 16 elements of the first row."""

    @inlined
    def scale_of(header, run, half):
        if scales == 0:
            return np.int16(1)
        return load_i16(header.scales, 2 * TILE_ROWS * (scales * run + (scales - 1) * half))

    return scale_of


def _dequantize_row(
    qk: int, type_size: int, scales: int, offset: int, unpack_header: Any, quants: Any
) -> Callable[..., None]:
    make_header, scale_of, num_runs = _header_maker(qk, scales), _scale_of(scales), qk // RUN

    @inlined
    def dequantize_row(w, offset_, num_blocks, out, out_offset):
        header = make_header()
        for b in range(num_blocks):
            start = offset_ + b * type_size
            unpack_header(w, start, 0, header, 0)  # the same row eight times
            for run in range(num_runs):
                q = quants(w, start, run)
                for j in range(RUN):
                    scale = header.d[0] * np.float32(scale_of(header, run, j // 16))
                    weight = scale * np.float32(np.int32(q[j]) - offset)
                    store_f32(out, out_offset + b * qk + RUN * run + j, weight)

    return dequantize_row


def _vec_dot(
    qk: int, type_size: int, scales: int, offset: int, unpack_header: Any, quants: Any
) -> Callable[..., np.float32]:
    make_header, scale_of, num_runs = _header_maker(qk, scales), _scale_of(scales), qk // RUN

    @inlined
    def vec_dot(w, offset_, num_blocks, x, token):
        header, acc = make_header(), np.float32(0)
        for b in range(num_blocks):
            start = offset_ + b * type_size
            column = token * num_blocks + b
            unpack_header(w, start, 0, header, 0)
            total, offsets = i32x8(0), np.int32(0)
            for run in range(num_runs):
                first, second = scale_of(header, run, 0), scale_of(header, run, 1)
                k = column * qk + RUN * run
                products = maddubs(quants(w, start, run), load_i8x32(x.q, k))
                total += madd(products, concat_i16(i16x8(first), i16x8(second)))
                offsets += np.int32(first) * np.int32(load_i16(x.sums, k // 16))
                offsets += np.int32(second) * np.int32(load_i16(x.sums, k // 16 + 1))
            s = np.float32(np.int32(sum_i32x8(total) - offset * offsets))
            acc = fma_f32(load_f32(x.d, column), header.d[0] * s, acc)
        return acc

    return vec_dot
