"""Tensors of a checkpoint as views of mapped files: reordered without being read, read when they are written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from densecore.gguf import GGMLType

__all__ = ["CHUNK_ELEMENTS", "DTYPES", "LazyTensor", "to_float32"]

CHUNK_ELEMENTS = 1 << 21  # read at a time: 8 MiB as float32

# Types of safetensors files and how numpy holds them. BF16, which numpy lacks, lies in its 16 bits.
DTYPES: dict[str, np.dtype] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}


@dataclass(frozen=True, eq=False)
class LazyTensor:
    """A tensor whose numbers are read when they are asked for.

    The elements of `pieces`, each read row by row and one piece after the other, are those of the tensor of shape
    `shape`; a piece may have more axes than the tensor, which is how heads are reordered without a copy.
    """

    dtype: str  # a key of DTYPES
    shape: tuple[int, ...]
    pieces: tuple[np.ndarray, ...]
    shift: float = 0.0  # is added to each element
    kind: GGMLType | None = None  # the type of the chunks, where they are blocks of a GGUF file already

    @property
    def view(self) -> np.ndarray:
        """The only piece, in the tensor's own shape: what rules start from."""
        (piece,) = self.pieces
        return piece.reshape(self.shape)

    def viewed(self, *pieces: np.ndarray, shape: tuple[int, ...]) -> LazyTensor:
        """The tensor of shape `shape` that views of this one make up."""
        assert sum(piece.size for piece in pieces) == math.prod(shape)
        return replace(self, pieces=pieces, shape=shape)

    def plus(self, shift: float) -> LazyTensor:
        """The tensor with `shift` added to each element."""
        return replace(self, shift=self.shift + shift)

    def chunks(self) -> Iterator[np.ndarray]:
        """All elements in order, as views of whole rows and of at most CHUNK_ELEMENTS elements.

        Only a row that is longer than that is cut, after a multiple of 32 elements.
        """
        for piece in self.pieces:
            yield from _chunks(piece)


def _chunks(view: np.ndarray) -> Iterator[np.ndarray]:
    if view.size <= CHUNK_ELEMENTS:
        yield view
        return
    per_index = view[0].size
    if per_index > CHUNK_ELEMENTS:
        for part in view:
            yield from _chunks(part)
        return
    step = CHUNK_ELEMENTS // per_index
    for start in range(0, len(view), step):
        yield view[start : start + step]


def to_float32(values: np.ndarray, dtype: str) -> np.ndarray:
    """A contiguous copy of `values`, of the safetensors type `dtype`, in float32 of the same shape."""
    values = np.ascontiguousarray(values)
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
