"""Products of activations with a weight matrix: y = x W^T.

A weight matrix W (n_out, n_in) lies in the file row by row, in the blocks of its format. Every element of y is one
`vec_dot` of a row with a token, whatever the shape of the product and the number of threads: equal bits.
"""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from .cache import INLINED_OPTIONS
from .formats import Q8, Format, dequantize_row
from .gemm import multiply_panels
from .gemm_amx import multiply_panels_amx
from .matmul_floats import multiply_floats
from .plan import range_operation, row_operation
from .simd_types import HAS_TILES


def dequantize_ref(fmt: Format, w: np.ndarray, n_in: int) -> np.ndarray:
    """The whole matrix w (bytes) as float32 (n_out, n_in)."""
    return fmt.dequantize_ref(w.reshape(-1, fmt.type_size)).reshape(-1, n_in)


def matmul_ref(fmt: Format, type_size: int, w: np.ndarray, x: np.ndarray | Q8, y: np.ndarray) -> None:
    """y (num_tokens, n_out) = x (num_tokens, n_in) W^T: each element by the format's `vec_dot_ref`."""
    rows = w.reshape(y.shape[1], -1, type_size)
    for token in range(y.shape[0]):
        operand = Q8(*(part[token] for part in x)) if isinstance(x, Q8) else x[token]
        for row, blocks in enumerate(rows):
            y[token, row] = fmt.vec_dot_ref(blocks, operand)


ROWS = 64  # of the output in a task: whole panels
_TOGETHER = 256  # groups of ROWS rows that a worker may take at once, divided by the tokens that they meet
_ENOUGH = 8 if HAS_TILES else 1  # or as many: it arranges its tokens once


def _row_groups(fmt: Format, type_size: int, w: np.ndarray, x: np.ndarray | Q8, y: np.ndarray) -> int:
    return -(-y.shape[1] // ROWS) if y.size else 0  # there may be no token whose logits are wanted


def _groups_together(fmt: Format, type_size: int, w: np.ndarray, x: np.ndarray | Q8, y: np.ndarray) -> int:
    """With few tokens, what each task costs at its beginning is as much as dozens of rows."""
    return max(_ENOUGH, _TOGETHER // max(1, y.shape[0]))


def multiply(fmt, type_size, w, x, y, first, last):
    """Compiled code only: elements `first` to `last` of each token's output."""


@overload(multiply, jit_options=INLINED_OPTIONS)
def _multiply(fmt, type_size, w, x, y, first, last):
    if not fmt.format.unpacked:
        return multiply_floats(fmt.format)
    by_tiles = HAS_TILES and not fmt.format.unpacked.wide_scales
    return (multiply_panels_amx if by_tiles else multiply_panels)(fmt.format)


@range_operation(tasks=_row_groups, together=_groups_together, twin=matmul_ref)
def matmul(fmt, type_size, w, x, y, first, last):
    """y (num_tokens, n_out) = x W^T.

    w : bytes (n_out * row_bytes,) of a matrix of format `fmt`, whose blocks have `type_size` bytes
    x : `Q8` of the format's group, or float32 (num_tokens, n_in) for float formats
    """
    multiply(fmt, type_size, w, x, y, first * ROWS, min(last * ROWS, y.shape[1]))


def embed_ref(fmt: Format, qk: int, type_size: int, w: np.ndarray, ids: np.ndarray, out: np.ndarray) -> None:
    """Rows `ids` (num_tokens,) of the embedding matrix w as float32 `out` (num_tokens, dim)."""
    rows = w.reshape(-1, out.shape[1] // qk * type_size)[ids]
    out[:] = dequantize_ref(fmt, rows, out.shape[1])


@row_operation(twin=embed_ref, array=lambda fmt, qk, type_size, w, ids, out: out)
def embed(fmt, qk, type_size, w, ids, out, first, last):
    """Rows `ids` (num_tokens,) of the embedding matrix w as float32 `out` (num_tokens, dim)."""
    num_blocks = out.shape[1] // qk
    for token in range(first, last):
        dequantize_row(fmt, w, ids[token] * num_blocks * type_size, num_blocks, out, token * out.shape[1])
