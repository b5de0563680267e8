"""What sampling works on, and its passes over the vocabulary.

The inner loops vectorise, but for `fill_masses` and the few tokens that `collect` and `gather` pick out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cache import inlined
from .sampling_order import (
    INF_KEY,
    LOWEST_KEY,
    N_BUCKETS,
    bucket_of,
    fraction_of,
    octaves_below,
    order_key,
    pack,
    packed_key,
    score_of,
    weight_of,
)

__all__ = ["BLOCK", "Edits", "Settings", "Workspace", "edit_ref"]

BLOCK = 128  # tokens whose highest key is kept, so that most blocks can be skipped
_MAX_SCORE = float(np.finfo(np.float32).max)


class Settings(NamedTuple):
    """What `GenerationConfig` says about sampling; a value that turns a step off is in brackets."""

    temperature: float  # 0 is greedy
    top_k: int  # [0]
    top_p: float  # [1]
    min_p: float  # [0]
    repetition_penalty: float  # [1]
    presence_penalty: float  # [0]
    frequency_penalty: float  # [0]


class Edits(NamedTuple):
    """The few tokens whose logits change before anything is drawn: each once, with ids within the vocabulary."""

    ids: np.ndarray  # (capacity,) int32
    bias: np.ndarray  # (capacity,) float64, added to the logit
    counts: np.ndarray  # (capacity,) int32: times in the output; 0 if in the prompt only, -1 if in neither


class Workspace(NamedTuple):
    """Scratch of `sample` for one vocabulary size, reused from token to token: 26 bytes a token of the vocabulary.

    Several of them, for as many workers, are the same arrays with one more axis in front.
    """

    keys: np.ndarray  # (n_blocks * BLOCK,) int32, order_key of each score; behind the vocabulary that of -inf
    blocks: np.ndarray  # (n_blocks, BLOCK), the same memory
    loaded: np.ndarray  # (n_blocks,) uint8, whether `keys` holds a block: only those that are looked at
    peaks: np.ndarray  # (n_blocks,) int32, the highest key of each block
    fractions: np.ndarray  # (n_blocks, BLOCK) uint32
    buckets: np.ndarray  # (n_blocks, BLOCK) uint16
    masses: np.ndarray  # (N_BUCKETS,) int64, sum of the weights in each bucket
    candidates: np.ndarray  # (n_blocks * BLOCK,) int64, packed tokens
    weights: np.ndarray  # (n_blocks * BLOCK,) int64, of candidates

    @classmethod
    def create(cls, n_vocab: int, *count: int) -> Workspace:
        """Scratch for logits of shape (n_vocab,), or `count` of them."""
        n_blocks = -(-n_vocab // BLOCK)
        keys = np.full((*count, n_blocks * BLOCK), -INF_KEY, np.int32)
        return cls(
            keys=keys,
            blocks=keys.reshape(*count, n_blocks, BLOCK),
            loaded=np.empty((*count, n_blocks), np.uint8),
            peaks=np.empty((*count, n_blocks), np.int32),
            fractions=np.empty((*count, n_blocks, BLOCK), np.uint32),
            buckets=np.empty((*count, n_blocks, BLOCK), np.uint16),
            masses=np.empty((*count, N_BUCKETS), np.int64),
            candidates=np.empty((*count, n_blocks * BLOCK), np.int64),
            weights=np.empty((*count, n_blocks * BLOCK), np.int64),
        )


@inlined
def peak_of(logits, first, last):
    """The lowest and the highest key of logits[first:last]."""
    lowest = highest = order_key(logits[first])
    for i in range(first, last):
        key = order_key(logits[i])
        lowest = key if key < lowest else lowest
        highest = key if key > highest else highest
    return lowest, highest


@inlined
def scan(logits, peaks):
    """The one pass over all logits (n_vocab,): fill `peaks`; return the lowest and the highest key."""
    lowest, highest = np.int32(INF_KEY), np.int32(-INF_KEY)
    for block in range(peaks.shape[0]):
        first = block * BLOCK
        if first + BLOCK <= logits.shape[0]:  # a constant length is what vectorises best
            low, peak = peak_of(logits, first, first + BLOCK)
        else:
            low, peak = peak_of(logits, first, logits.shape[0])
        peaks[block] = peak
        lowest = low if low < lowest else lowest
        highest = peak if peak > highest else highest
    return lowest, highest


@inlined
def load_block(logits, keys, loaded, block):
    """Fill the keys of one block, unless they are there."""
    if not loaded[block]:
        loaded[block] = 1
        for i in range(block * BLOCK, min(block * BLOCK + BLOCK, logits.shape[0])):
            keys[i] = order_key(logits[i])


@inlined
def load_blocks(logits, keys, loaded, peaks, threshold):
    """Fill the keys of all blocks of which a token reaches `threshold`."""
    for block in range(peaks.shape[0]):
        if peaks[block] >= threshold:
            load_block(logits, keys, loaded, block)


def edit_ref(logits: np.ndarray, settings: Settings, edits: Edits, n_edits: int) -> np.ndarray:
    """Twin of `apply_edits`: logits (n_vocab,) with bias and penalties, as new float32 scores (n_vocab,)."""
    ids, bias, counts = (column[:n_edits] for column in edits)
    scores = logits[ids].astype(np.float64) + bias
    penalty = settings.repetition_penalty
    penalized = np.where(scores > 0, scores / penalty, scores * penalty)
    scores = np.where(counts >= 0, penalized, scores)
    scores -= np.where(counts > 0, settings.presence_penalty + settings.frequency_penalty * counts, 0)
    edited = logits.astype(np.float32)
    edited[ids] = np.where(np.isinf(scores), scores, scores.clip(-_MAX_SCORE, _MAX_SCORE))
    return edited


@inlined
def apply_edits(logits, keys, loaded, ids, bias, counts, repetition, presence, frequency):
    """Apply bias and penalties to `keys`. Masked tokens (-inf) stay masked, all others stay finite."""
    for row in range(ids.shape[0]):
        token_id, count = ids[row], counts[row]
        load_block(logits, keys, loaded, token_id // BLOCK)
        if keys[token_id] >= LOWEST_KEY:
            score = np.float64(score_of(keys[token_id])) + bias[row]
            if count >= 0:
                score = score / repetition if score > 0 else score * repetition
            if count > 0:
                score -= presence + frequency * count
            score = score if score < _MAX_SCORE else _MAX_SCORE
            keys[token_id] = order_key(np.float32(score if score > -_MAX_SCORE else -_MAX_SCORE))


@inlined
def renew_peaks(keys, loaded, peaks):
    """Correct `peaks` where keys are loaded, since edits may have changed them; return the highest key of all."""
    highest = np.int32(-INF_KEY)
    for block in range(peaks.shape[0]):
        if loaded[block]:
            peak = np.int32(-INF_KEY)
            for i in range(block * BLOCK, block * BLOCK + BLOCK):
                peak = keys[i] if keys[i] > peak else peak
            peaks[block] = peak
        highest = peaks[block] if peaks[block] > highest else highest
    return highest


@inlined
def collect(keys, peaks, threshold, limit, candidates):
    """Pack tokens that reach `threshold` into `candidates`, ids ascending; their number, or 0 beyond `limit`."""
    n = 0
    for block in range(peaks.shape[0]):
        if peaks[block] >= threshold:
            if n + BLOCK > limit:
                return 0
            for i in range(block * BLOCK, block * BLOCK + BLOCK):
                if keys[i] >= threshold:
                    candidates[n] = pack(keys[i], i)
                    n += 1
    return n


@inlined
def gather(keys, buckets, bucket, candidates):
    """Pack the tokens of one bucket (uint16) into `candidates`, ids ascending; return their number."""
    n = 0
    for block in range(buckets.shape[0]):
        nearest = np.uint16(0xFFFF)
        for j in range(BLOCK):
            difference = np.uint16(buckets[block, j] ^ bucket)
            nearest = difference if difference < nearest else nearest
        if nearest == 0:
            for j in range(BLOCK):
                if buckets[block, j] == bucket:
                    candidates[n] = pack(keys[block * BLOCK + j], block * BLOCK + j)
                    n += 1
    return n


@inlined
def weigh_candidates(candidates, n, top, scale, floor, weights):
    """Fill weights[:n]; return the mass of candidates[:n], and of those whose key reaches `floor`."""
    total = mass_above = np.int64(0)
    for i in range(n):
        key = packed_key(candidates[i])
        octaves = octaves_below(key, top, scale)
        weights[i] = weight_of(fraction_of(octaves), bucket_of(octaves))
        total += weights[i]
        mass_above += weights[i] if key >= floor else 0
    return total, mass_above


@inlined
def weigh_all(blocks, top, scale, floor, fractions, buckets):
    """Fill `fractions` and `buckets`; return the mass of all tokens, and of those whose key reaches `floor`."""
    total = mass_above = np.int64(0)
    for block in range(blocks.shape[0]):
        for j in range(BLOCK):
            octaves = octaves_below(blocks[block, j], top, scale)
            fractions[block, j] = fraction_of(octaves)
            buckets[block, j] = bucket_of(octaves)
        for j in range(BLOCK):
            weight = weight_of(fractions[block, j], buckets[block, j])
            total += weight
            mass_above += weight if blocks[block, j] >= floor else 0
    return total, mass_above


@inlined
def fill_masses(peaks, lowest, fractions, buckets, masses):
    """Sum weights into `masses`, as far as tokens whose keys reach `lowest` go: blocks without any are skipped."""
    for bucket in range(masses.shape[0]):
        masses[bucket] = 0
    for block in range(peaks.shape[0]):
        if peaks[block] >= lowest:
            for j in range(BLOCK):
                bucket = buckets[block, j]
                masses[bucket] += weight_of(fractions[block, j], bucket)
