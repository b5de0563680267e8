"""The highest logit of each block of tokens, found while the output product's results are still in the CPU's cache.

Sampling looks for the few tokens that count among all of the vocabulary. With the peaks it loads the blocks that hold
them, and nothing else: 32 sequences of 150,000 tokens have 19 MB of logits, and to read them once more takes longer
than all else that is done to draw from them.
"""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .matmul import ROWS
from .plan import range_operation
from .sampling_order import INF_KEY, order_key

__all__ = ["BLOCK", "NO_PEAKS", "block_peaks", "num_blocks"]

BLOCK = ROWS  # tokens whose highest key is kept, so that most blocks can be skipped: what a piece of the product makes
NO_PEAKS = np.empty(0, np.int32)  # where they are not known
_MOST = 1024  # blocks in a piece, at most, if nothing goes before


def num_blocks(n_vocab: int) -> int:
    """Blocks of a vocabulary; the last one may be shorter."""
    return -(-n_vocab // BLOCK)


@inlined
def peak_of(logits, first, last):
    """The highest key of logits[first:last], INF_KEY if one of them is NaN or +inf."""
    lowest = highest = order_key(logits[first])
    for i in range(first, last):
        key = order_key(logits[i])
        lowest = key if key < lowest else lowest
        highest = key if key > highest else highest
    return highest if lowest >= -INF_KEY and highest < INF_KEY else INF_KEY  # NaN lies beyond the infinities


@inlined
def peak_of_block(logits, block):
    """The same, for the tokens of a block."""
    first = block * BLOCK
    if first + BLOCK <= logits.shape[0]:  # a constant length is what vectorises best
        return peak_of(logits, first, first + BLOCK)
    return peak_of(logits, first, logits.shape[0])


def block_peaks_ref(logits: np.ndarray, peaks: np.ndarray) -> None:
    """peaks (num_rows, num_blocks): `order_key` of the highest of each block of logits (num_rows, n_vocab)."""
    for block in range(peaks.shape[1]):
        part = logits[:, block * BLOCK : (block + 1) * BLOCK]
        highest = np.where((part < np.inf).all(axis=1), part.max(axis=1), np.float32(np.inf)) + np.float32(0)
        bits = highest.view(np.int32)
        peaks[:, block] = np.where(bits >= 0, bits, np.int32(-(2**31)) - bits)


@range_operation(
    tasks=lambda logits, peaks: peaks.shape[1] if peaks.size else 0,
    together=lambda logits, peaks: max(1, _MOST // max(1, peaks.shape[0])),
    twin=block_peaks_ref,
)
def block_peaks(logits, peaks, first, last):
    """peaks (num_rows, num_blocks) int32 = `order_key` of the highest of each block of logits (num_rows, n_vocab).

    It is INF_KEY where one of them is NaN or +inf.
    """
    for row in range(peaks.shape[0]):
        for block in range(first, last):
            peaks[row, block] = peak_of_block(logits[row], block)
