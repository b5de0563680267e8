"""Sums of products of columns: what importance matrices are measured with.

Not by a library's matrix product: its threads would fight with those that compute the model for the same cores.
"""

from __future__ import annotations

import numpy as np

from .cache import kernel
from .simd import f32x8, fma, load_f32, load_f32x8, store_f32x8

__all__ = ["add_products", "add_products_ref"]

ROWS = 4  # of the result that are computed together


def add_products_ref(x: np.ndarray, products: np.ndarray) -> None:
    """The twin of `add_products`."""
    length = products.shape[1]
    for block, total in enumerate(products):
        part = x[:, block * length : (block + 1) * length]
        total += part.T @ part


@kernel(twin=add_products_ref)
def add_products(x, products):
    """products[b, i, j] += sum over rows of x_i x_j, for columns i, j of block b.

    x : (num_rows, n_blocks * length) float32; products : (n_blocks, length, length) float32, length a multiple of 8
    Below the diagonal only what shares eight columns with it is computed: the rest is the same as above, transposed.
    """
    num_rows, n = x.shape
    n_blocks, length = products.shape[0], products.shape[1]
    for block in range(n_blocks):
        for i in range(0, length, ROWS):
            for j in range(i // 8 * 8, length, 8):
                place = (block * length + i) * length + j
                a, b = load_f32x8(products, place), load_f32x8(products, place + length)
                c, d = load_f32x8(products, place + 2 * length), load_f32x8(products, place + 3 * length)
                for row in range(num_rows):
                    start = row * n + block * length
                    v = load_f32x8(x, start + j)
                    a = fma(f32x8(load_f32(x, start + i)), v, a)
                    b = fma(f32x8(load_f32(x, start + i + 1)), v, b)
                    c = fma(f32x8(load_f32(x, start + i + 2)), v, c)
                    d = fma(f32x8(load_f32(x, start + i + 3)), v, d)
                store_f32x8(products, place, a)
                store_f32x8(products, place + length, b)
                store_f32x8(products, place + 2 * length, c)
                store_f32x8(products, place + 3 * length, d)
