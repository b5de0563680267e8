"""Products of float weights by tile registers of bfloat16, for encoders: `matmul` with operands split in two.

See `simd_bf16` for how a float32 becomes two bfloat16, and what that leaves out. Every sum is a chain over groups of 32
elements in ascending order, whatever is beside it, so that it does not depend on the batch. But it is not the chain of
`matmul`, whose results for one token and for many are the same bits: a model must use one of the two throughout.
Encoders, which always have whole texts, use this one where the CPU has such registers.

Tokens are split once for all matrices that they meet; rows of the matrix, 32 at a time, once for all tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.extending import overload

from .activation import gelu_erf_f32x8, gelu_erf_ref
from .cache import INLINED_OPTIONS, inlined
from .formats import Format
from .matmul import dequantize_ref
from .plan import range_operation, row_operation
from .simd import load_f32, load_f32x8, local_array, store_f32, store_f32x8
from .simd_amx import release_tiles
from .simd_bf16 import (
    BOTH,
    LANES,
    WIDTH,
    add_split_products,
    begin_sums,
    configure_bf16_tiles,
    make_split_rows,
    split_token,
    store_tile,
)
from .simd_types import HAS_BF16_TILES

__all__ = [
    "HAS_BF16_TILES",
    "WIDTH",
    "can_split",
    "matmul_gelu",
    "matmul_gelu_ref",
    "matmul_split",
    "matmul_split_ref",
    "split",
    "split_ref",
    "split_shape",
]

ROWS = 2 * LANES  # of the matrix in a panel
TOKENS = 2 * LANES  # that a panel is multiplied with at once
SUMS = TOKENS * ROWS
assert ROWS == WIDTH  # a panel's results are one step of the next product
_TOGETHER = 4096  # rows that a worker may take at once, divided by the tokens that they meet


def can_split(n_out: int, n_in: int) -> bool:
    """Whether a matrix has whole panels."""
    return n_out % ROWS == 0 and n_in % WIDTH == 0


def split_shape(num_tokens: int, n_in: int) -> tuple[int, int, int, int, int]:
    """Shape of the halves of activations: (tiles, n_in / 32, high and low, 16 tokens, 32 elements), uint16."""
    return -(-num_tokens // TOKENS) * 2, n_in // WIDTH, 2, LANES, WIDTH


def _rounded(x: np.ndarray) -> np.ndarray:
    """Float32 with the precision of bfloat16, as float32."""
    return (np.ascontiguousarray(x, np.float32).view(np.uint32) + 0x8000 & 0xFFFF0000).view(np.float32)


def _halves_ref(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """High and low half of float32 as float32."""
    high = _rounded(x)
    return high, _rounded(x - high)


def split_ref(x: np.ndarray, halves: np.ndarray) -> None:
    """halves (`split_shape`) = those of x (num_tokens, n_in); places behind the last token stay as they are."""
    for token, row in enumerate(x):
        for number, part in enumerate(_halves_ref(row)):
            words = (part.view(np.uint32) >> 16).astype(np.uint16)
            halves[token // LANES, :, number, token % LANES] = words.reshape(-1, WIDTH)


@row_operation(twin=split_ref)
def split(x, halves, first, last):
    """halves (`split_shape`) = those of x (num_tokens, n_in) float32."""
    n_in = x.shape[1]
    steps = n_in // WIDTH
    for token in range(first, last):
        tile, row = token // LANES, token % LANES
        for step in range(steps):
            split_token(x, token * n_in + WIDTH * step, halves, (tile * steps + step) * BOTH + WIDTH * row)


def matmul_split_ref(fmt: Format, type_size: int, w: np.ndarray, halves: np.ndarray, bias: np.ndarray, y) -> None:
    """y (num_tokens, n_out) = x W^T + bias without the products of two low halves."""
    num_tokens, steps = len(y), halves.shape[1]
    parts = halves.transpose(2, 0, 3, 1, 4).reshape(2, -1, steps * WIDTH)[:, :num_tokens]
    high, low = (parts.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    w_high, w_low = _halves_ref(dequantize_ref(fmt, w, steps * WIDTH))
    y[:] = (high + low) @ w_high.T.astype(np.float64) + high @ w_low.T.astype(np.float64) + bias


def matmul_gelu_ref(fmt, type_size, w, halves, bias, num_tokens: int, out) -> None:
    """out = the halves of gelu(x W^T + bias), by erf."""
    y = np.empty((num_tokens, bias.size), np.float32)
    matmul_split_ref(fmt, type_size, w, halves, bias, y)
    gelu_erf_ref(y)
    split_ref(y, out)


def split_rows(fmt, w, start, stride, panel, place):
    """Compiled code only: see `simd_bf16.make_split_rows`."""


@overload(split_rows, jit_options=INLINED_OPTIONS)
def _split_rows(fmt, w, start, stride, panel, place):
    split_some: Any = make_split_rows(fmt.format.name)
    return lambda fmt, w, start, stride, panel, place: split_some(w, start, stride, panel, place)


@inlined
def fill_panel(fmt, type_size, w, row, n_in, panel):
    """Split 32 rows of the matrix from `row` on: panel (2 tiles, steps, high and low, 16, 32), flat."""
    steps = n_in // WIDTH
    for half in range(2):
        for step in range(steps):
            start = ((row + LANES * half) * n_in + WIDTH * step) * type_size
            split_rows(fmt, w, start, n_in * type_size, panel, (half * steps + step) * BOTH)


@inlined
def compute_sums(halves, panel, token, bias, row):
    """Products of 32 tokens with a panel, and the bias, in the tiles of sums."""
    steps = halves.shape[1]
    begin_sums(bias, row)
    x_at = token // LANES * steps * BOTH
    for step in range(steps):
        add_split_products(halves, x_at + step * BOTH, steps * BOTH, panel, step * BOTH, steps * BOTH)


@inlined
def store_block(y, place, stride):
    """Write the sums of 32 tokens and 32 rows to y, float32."""
    store_tile(0, 0, y, place, stride)
    store_tile(0, 1, y, place + LANES, stride)
    store_tile(1, 0, y, place + LANES * stride, stride)
    store_tile(1, 1, y, place + LANES * stride + LANES, stride)


def _panels(fmt: Format, type_size: int, w: np.ndarray, halves: np.ndarray, bias: np.ndarray, *_: Any) -> int:
    return bias.size // ROWS


def _panels_together(fmt: Format, type_size: int, w: np.ndarray, halves: np.ndarray, *_: Any) -> int:
    return max(1, _TOGETHER // (halves.shape[0] * LANES) // ROWS)


@range_operation(tasks=_panels, together=_panels_together, twin=matmul_split_ref)
def matmul_split(fmt, type_size, w, halves, bias, y, first, last):
    """y (num_tokens, n_out) = x W^T + bias.

    w : bytes of a matrix (n_out, n_in) of a float format, with whole panels (`can_split`)
    halves : what `split` made of x (num_tokens, n_in); bias : (n_out,) float32
    """
    (num_tokens, n_out), steps = y.shape, halves.shape[1]
    panel, buffer = np.empty(2 * steps * BOTH, np.uint16), local_array(np.float32, SUMS)
    configure_bf16_tiles()
    for row in range(first * ROWS, last * ROWS, ROWS):
        fill_panel(fmt, type_size, w, row, steps * WIDTH, panel)
        for token in range(0, num_tokens, TOKENS):
            compute_sums(halves, panel, token, bias, row)
            if token + TOKENS <= num_tokens:
                store_block(y, token * n_out + row, n_out)
            else:
                store_block(buffer, 0, ROWS)
                for t in range(num_tokens - token):
                    for r in range(ROWS):
                        store_f32(y, (token + t) * n_out + row + r, load_f32(buffer, t * ROWS + r))
    release_tiles()


@range_operation(tasks=_panels, together=_panels_together, twin=matmul_gelu_ref)
def matmul_gelu(fmt, type_size, w, halves, bias, num_tokens, out, first, last):
    """out = the halves of gelu(x W^T + bias), by erf: what the next product takes, without a way through memory.

    Arguments as of `matmul_split`; out : of shape `split_shape(num_tokens, n_out)`
    """
    steps, steps_out = halves.shape[1], out.shape[1]
    panel, buffer = np.empty(2 * steps * BOTH, np.uint16), local_array(np.float32, SUMS)
    configure_bf16_tiles()
    for row in range(first * ROWS, last * ROWS, ROWS):
        fill_panel(fmt, type_size, w, row, steps * WIDTH, panel)
        for token in range(0, num_tokens, TOKENS):
            compute_sums(halves, panel, token, bias, row)
            store_block(buffer, 0, ROWS)
            for k in range(0, SUMS, 8):
                store_f32x8(buffer, k, gelu_erf_f32x8(load_f32x8(buffer, k)))
            for t in range(TOKENS):  # those behind the last token are never looked at
                tile = (token + t) // LANES
                split_token(buffer, t * ROWS, out, (tile * steps_out + row // WIDTH) * BOTH + t % LANES * WIDTH)
    release_tiles()
