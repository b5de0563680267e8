"""Keys and values of one head in one block as matrices for `attention_products`, by the type of the cache."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import overload

from .cache import INLINED_OPTIONS
from .kv_layout import GROUP, SCALED_GROUP
from .simd_products import matrix, scaled_columns, scaled_rows

__all__ = ["key_matrix", "value_matrix", "value_width"]


def value_width(v_cache) -> int:
    """Elements that a head takes in a cache of values, scales left out."""
    row = v_cache.shape[3]
    return row // SCALED_GROUP * GROUP if v_cache.dtype == np.int8 else row


@overload(value_width, jit_options=INLINED_OPTIONS)
def _value_width(v_cache):
    if v_cache.dtype == types.int8:
        return lambda v_cache: v_cache.shape[3] // SCALED_GROUP * GROUP
    return lambda v_cache: v_cache.shape[3]


def key_matrix(cache, start, offset):
    """Keys (head_dim, positions) of the head and block that begin at `start`, from `offset` in the block on."""
    raise NotImplementedError("compiled code only")


@overload(key_matrix, jit_options=INLINED_OPTIONS)
def _key_matrix(cache, start, offset):
    if cache.dtype != types.int8:
        return lambda cache, start, offset: matrix(cache, start + offset, cache.shape[3])

    def scaled(cache, start, offset):
        codes = cache.shape[2] // SCALED_GROUP * GROUP * cache.shape[3]
        return scaled_columns(cache, start, cache.shape[3], start + codes, offset)

    return scaled


def value_matrix(cache, start):
    """Values (positions, head_dim) whose first row begins at `start`."""
    raise NotImplementedError("compiled code only")


@overload(value_matrix, jit_options=INLINED_OPTIONS)
def _value_matrix(cache, start):
    if cache.dtype != types.int8:
        return lambda cache, start: matrix(cache, start, cache.shape[3])
    return lambda cache, start: scaled_rows(cache, start, cache.shape[3], start + value_width(cache), 0)
