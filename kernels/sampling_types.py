"""What sampling works on: what is asked for, what is known of the logits already, and scratch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .block_masses import NO_MASSES
from .peaks import BLOCK, NO_PEAKS, num_blocks
from .sampling_order import INF_KEY, MAX_OCTAVES, N_BUCKETS

__all__ = ["NOTHING_KNOWN", "Edits", "Known", "Settings", "Workspace"]


class Known(NamedTuple):
    """What was found of one row of logits where they were made; an empty array where it was not."""

    peaks: np.ndarray  # (num_blocks,) int32, see `block_peaks`
    masses: np.ndarray  # (num_blocks,) float32, see `block_masses`, at the temperature of this draw


NOTHING_KNOWN = Known(NO_PEAKS, NO_MASSES)


class Settings(NamedTuple):
    """What `GenerationConfig` says about sampling; a value that turns a step off is in brackets."""

    temperature: float  # 0 is greedy
    top_k: int  # [0]
    top_p: float  # [1]
    min_p: float  # [0]
    repetition_penalty: float  # [1]
    presence_penalty: float  # [0]
    frequency_penalty: float  # [0]
    typical_p: float  # [1]; where it is not, top_k, top_p, min_p and max_surprise must be off
    max_surprise: float  # [inf] bits, among all tokens; what is more surprising is left out, but for one token


class Edits(NamedTuple):
    """The few tokens whose logits change before anything is drawn: each once, with ids within the vocabulary."""

    ids: np.ndarray  # (capacity,) int32
    bias: np.ndarray  # (capacity,) float64, added to the logit; -inf forbids the token
    counts: np.ndarray  # (capacity,) int32: times in the output; 0 if in the prompt only, -1 if in neither


class Workspace(NamedTuple):
    """Scratch of `sample` for one vocabulary size, reused from token to token: 34 bytes a token of the vocabulary.

    Several of them, for as many workers, are the same arrays with one more axis in front.
    """

    keys: np.ndarray  # (n_blocks * BLOCK,) int32, order_key of each score; behind the vocabulary that of -inf
    loaded: np.ndarray  # (n_blocks,) uint8, whether `keys` holds a block: only those that are looked at
    peaks: np.ndarray  # (n_blocks,) int32, the highest key of each block
    block_masses: np.ndarray  # (n_blocks,) float32, of each block, relative to its peak
    totals: np.ndarray  # (n_blocks,) int64, the same relative to the highest peak
    kept_totals: np.ndarray  # (n_blocks,) int64, of the tokens that min-p or a bound of surprise keep
    surprise: np.ndarray  # (1,) float64, result: bits, of the token that was drawn
    masses: np.ndarray  # (N_BUCKETS,) int64, sum of the weights in each bucket
    candidates: np.ndarray  # (n_blocks * BLOCK,) int64, packed tokens
    weights: np.ndarray  # (n_blocks * BLOCK,) int64, of candidates
    found_keys: np.ndarray  # (n_blocks * BLOCK,) int32, tokens from which candidates are taken
    found_ids: np.ndarray  # (n_blocks * BLOCK,) int32
    fractions: np.ndarray  # (n_blocks * BLOCK,) uint32, of tokens that were found, or of one block
    buckets: np.ndarray  # (n_blocks * BLOCK,) uint16, of tokens that were found
    halvings: np.ndarray  # (BLOCK,) uint32, of one block
    octave_masses: np.ndarray  # (MAX_OCTAVES + 1,) int64, of a sample of the vocabulary

    @classmethod
    def create(cls, n_vocab: int, *count: int) -> Workspace:
        """Scratch for logits of shape (n_vocab,), or `count` of them."""
        n_blocks = num_blocks(n_vocab)
        keys = np.full((*count, n_blocks * BLOCK), -INF_KEY, np.int32)
        return cls(
            keys=keys,
            loaded=np.empty((*count, n_blocks), np.uint8),
            peaks=np.empty((*count, n_blocks), np.int32),
            block_masses=np.empty((*count, n_blocks), np.float32),
            totals=np.empty((*count, n_blocks), np.int64),
            kept_totals=np.empty((*count, n_blocks), np.int64),
            surprise=np.zeros((*count, 1)),
            masses=np.empty((*count, N_BUCKETS), np.int64),
            candidates=np.empty((*count, n_blocks * BLOCK), np.int64),
            weights=np.empty((*count, n_blocks * BLOCK), np.int64),
            found_keys=np.empty((*count, n_blocks * BLOCK), np.int32),
            found_ids=np.empty((*count, n_blocks * BLOCK), np.int32),
            fractions=np.empty((*count, n_blocks * BLOCK), np.uint32),
            buckets=np.empty((*count, n_blocks * BLOCK), np.uint16),
            halvings=np.empty((*count, BLOCK), np.uint32),
            octave_masses=np.empty((*count, int(MAX_OCTAVES) + 1), np.int64),
        )
