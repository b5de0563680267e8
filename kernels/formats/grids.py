"""What the formats share whose weights are looked up, four or eight at once, as points of a grid.

The grids are those of the gguf package. Their points are unsigned; signs are bits beside the indices, one for each
weight or seven for eight weights: the number of minus signs is then even.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numba.extending import overload

from ..cache import INLINED_OPTIONS, inlined
from ..simd import bits_to_bytes

EVEN_SIGNS = np.array([index | (index.bit_count() & 1) << 7 for index in range(128)], np.uint8)


@cache
def grid(name: str) -> np.ndarray:
    """The grid of format `name`, (n, 4) or (n, 8) int8."""
    from gguf import quants  # takes a third of a second, and is not needed where kernels come from the cache

    kind = getattr(quants, name)
    kind.init_grid()
    return kind.grid.reshape(kind.grid_shape).astype(np.int8)


def constant_table(make: Callable[[], np.ndarray]) -> Callable[[], np.ndarray]:
    """A function that gives the array of `make()`, which is a constant to compiled code, made when that is compiled."""

    def table():
        return make()

    @overload(table, jit_options=INLINED_OPTIONS)
    def _table():
        array = make()
        return lambda: array

    return table


# ------------------------------------------------------- signs


def signs_ref(signs: np.ndarray) -> np.ndarray:
    """(...) uint8 -> (..., 8) int8: -1 where a bit is set, else 1, lowest bit first"""
    return 1 - 2 * (signs[..., None] >> np.arange(8, dtype=np.uint8) & 1).astype(np.int8)


@inlined
def even_signs(word):
    """The 32 sign bits of four indices of 7 bits, lowest first: each index, and above it its parity."""
    bits = word & 0x7F | word << 1 & 0x7F00 | word << 2 & 0x7F0000 | word << 3 & 0x7F000000
    parity = bits ^ bits >> 4
    parity ^= parity >> 2
    parity ^= parity >> 1
    return bits | (parity & 0x01010101) << 7


@inlined
def with_signs(q, bits):
    """-q in the lanes whose bit is set, else q (modulo 256)."""
    minus = bits_to_bytes(np.uint32(bits))
    return (q ^ minus) - minus


# ------------------------------------------------------- scales of eight rows


def nibbles_as_bytes_ref(packed: np.ndarray) -> np.ndarray:
    """(n, k) uint8 -> (n, 2 k): low nibble, high nibble of each byte in turn"""
    return np.stack([packed & 15, packed >> 4], axis=2).reshape(len(packed), -1)


@inlined
def nibbles_as_bytes(words):
    """The four lowest nibbles of each 32-bit lane, a byte each."""
    bytes_ = (words & 0xFFFF | words << 8) & 0x00FF00FF
    return (bytes_ | bytes_ << 4) & 0x0F0F0F0F


@inlined
def odd(bytes_):
    """2 s + 1 of each byte s."""
    return bytes_ << 1 | 0x01010101
