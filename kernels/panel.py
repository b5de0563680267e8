"""Panels: some rows of a matrix, a stretch of them at a time, brought into the form that products are fast in.

Whatever a format's blocks look like, a panel holds for each row and run of 32 elements the quants as bytes, four of
each row side by side, the integer scales, and the factors of the activations' sums. One kernel then serves all
formats. A panel belongs to one task and stays in the fastest cache; the matrix itself is never copied as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

RUN = 32  # elements that the kernel takes at once
STRETCH = 512  # elements of each row in a panel


class Panel(NamedTuple):
    """Buffers of one panel, flat; of `simd.TILE_ROWS` rows, which lie side by side."""

    q: np.ndarray  # (STRETCH / 4, rows, 4) uint8, or the bits of int8; (.., 2, rows, 4) with their magnitudes
    scales: np.ndarray  # (STRETCH / RUN, scales of a run, rows, 2) int16: each scale twice
    factors: np.ndarray  # (STRETCH / RUN, rows, 2) int16: factors of the sums of elements 0 to 15 and 16 to 31
    d: np.ndarray  # (blocks, rows) float32
    dmin: np.ndarray  # (blocks, rows) float32


@dataclass(frozen=True, eq=False)
class Unpacked:
    """How a format fills a panel, and how the product of a block follows from it.

    With S = sum of scale * q * x over a block and M = sum of factor * x, both integers, a block adds ``d * (S - M)``,
    or ``d * S - dmin * M`` if `has_minimum`, times the scale of x.

    Attributes
    ----------
    unpack_header : compiled; (w, start, stride, panel, index) writes all but the quants of one block of the eight rows
        that begin at byte `start` and lie `stride` bytes apart, as number `index` of the panel (`simd.store_rows`).
    unpack_quants : compiled; (w, start, stride, group) -> vector of the quants of some runs of the same block: u8 or
        i8, run by run; four elements of each row, then the next four. With None as `stride`, of the one row at `start`.
    groups : how many such vectors make a block.
    steps : how many times the products of 4 elements may be added in int16: 8 for q of 4 bits, 4 for 5 bits, 2 for 6,
        1 for 8.
    is_signed : q are int8.
    scales : integer scales in a run of 32: 0 (all are 1), 1 or 2.
    factor : the same factor for all x; 0 if M is 0. None if `unpack_header` writes them.
    has_minimum : each block has a `dmin`. If it has scales, too: q < 32, scales and factors < 64, none negative.
    offset : where `unpack_header` writes factors, but there is no minimum: factor = scale * offset, so that M can be
        left out if scale * (q - offset) are multiplied.
    row_quants : of blocks of 32 elements, compiled; (w, start) -> their quants in order, u8x32 or i8x32. Only where
        products with few tokens are faster so (`gemv_amx`).
    wide_scales : scales may need more than an int8, which the tile registers' form of products does not take.
    quants_at : the same for blocks whose quants lie in order as int8: at which byte. -1 if they do not.
    """

    unpack_header: Callable[..., None]
    unpack_quants: Callable[..., Any]
    groups: int
    steps: int
    is_signed: bool = False
    scales: int = 0
    factor: int | None = 0
    has_minimum: bool = False
    offset: int = 0
    row_quants: Callable[..., Any] | None = None
    quants_at: int = -1
    wide_scales: bool = False

    @property
    def bias(self) -> int:
        """What may be subtracted from each q instead of M from a block: d * (S - M) with the same factor for all x."""
        return 0 if self.has_minimum else self.factor or 0

    @property
    def has_m(self) -> bool:
        """Whether M has to be computed."""
        return self.has_minimum or self.factor is None
