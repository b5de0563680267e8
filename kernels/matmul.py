"""Products of activations with a weight matrix: y = x W^T.

A weight matrix W (n_out, n_in) lies in the file row by row, in the blocks of its format. Every element of y is one
`vec_dot` of a row with a token, whatever the shape of the product and the number of threads: equal bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from .cache import kernel
from .formats import Format, dequantize_row, vec_dot


def dequantize_ref(fmt: Format, w: np.ndarray, n_in: int) -> np.ndarray:
    """The whole matrix w (bytes) as float32 (n_out, n_in)."""
    return fmt.dequantize_ref(w.reshape(-1, fmt.type_size)).reshape(-1, n_in)


def matmul_ref(fmt: Format, w: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """y (num_tokens, n_out) = x (num_tokens, n_in) W^T, all float32."""
    y[:] = x @ dequantize_ref(fmt, w, x.shape[1]).T


@kernel
def matmul_rows(fmt, type_size, w, x, y, first, last):
    """Elements `first` to `last` of each token's output; the row stays in cache while the tokens pass."""
    num_blocks = w.size // type_size // y.shape[1]
    for row in range(first, last):
        for token in range(y.shape[0]):
            y[token, row] = vec_dot(fmt, w, row * num_blocks * type_size, num_blocks, x, token)


@kernel(parallel=True)
def matmul(fmt, type_size, w, x, y, num_tasks):
    """y (num_tokens, n_out) = x W^T.

    w : bytes (n_out * row_bytes,) of a matrix of format `fmt`, whose blocks have `type_size` bytes
    x : `Q8` of the format's group, or float32 (num_tokens, n_in) for float formats
    num_tasks : pieces that the rows are cut into, each for one thread
    """
    n_out = y.shape[1]
    for task in prange(num_tasks):
        matmul_rows(fmt, type_size, w, x, y, n_out * task // num_tasks, n_out * (task + 1) // num_tasks)


@kernel
def embed(fmt, qk, type_size, w, ids, out):
    """Rows `ids` (num_tokens,) of the embedding matrix w as float32 `out` (num_tokens, dim)."""
    num_blocks = out.shape[1] // qk
    for token in range(ids.size):
        dequantize_row(fmt, w, ids[token] * num_blocks * type_size, num_blocks, out, token * out.shape[1])
