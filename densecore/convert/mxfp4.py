"""MXFP4 as checkpoints of gpt-oss hold it, in the order of GGUF files.

A block is 32 numbers of 4 bits with one scale. Checkpoints have neighbours in a byte; GGUF files have, after the scale,
element i in the low and element i + 16 in the high half of byte i. Source: the OCP Microscaling Formats Specification,
and ``block_mxfp4`` of ggml.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from densecore.convert.lazy import CHUNK_ELEMENTS, LazyTensor
from densecore.gguf import GGMLType

__all__ = ["BLOCK", "packed"]

BLOCK = 32  # elements


def packed(blocks: np.ndarray, scales: np.ndarray) -> LazyTensor:
    """A tensor of `blocks` (..., n_in / 32, 16) uint8 and `scales` (..., n_in / 32) uint8, of shape (..., n_in)."""
    shape = (*scales.shape[:-1], scales.shape[-1] * BLOCK)
    return _Packed("U8", shape, (blocks, scales), kind=GGMLType.MXFP4)


@dataclass(frozen=True, eq=False)
class _Packed(LazyTensor):
    def chunks(self) -> Iterator[np.ndarray]:
        """Blocks of GGUF files, for a few rows at a time: (n_rows, n_in / 32, 17) uint8."""
        blocks, scales = self.pieces
        for expert in range(len(blocks)):
            step = max(CHUNK_ELEMENTS // (scales.shape[-1] * BLOCK), 1)
            for first in range(0, blocks.shape[1], step):
                rows = slice(first, first + step)
                yield _reordered(blocks[expert, rows], scales[expert, rows])


def _reordered(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    elements = np.stack((blocks & 0x0F, blocks >> 4), axis=-1).reshape(*blocks.shape[:-1], BLOCK)
    halves = elements[..., : BLOCK // 2] | (elements[..., BLOCK // 2 :] << 4)
    return np.concatenate((scales[..., None], halves), axis=-1)
