"""The passes of sampling over blocks of the vocabulary: their peaks, their keys, edits, and few candidates."""

from __future__ import annotations

import numpy as np

from .cache import inlined
from .peaks import BLOCK, peak_of_block
from .sampling_order import (
    INF_KEY,
    LOWEST_KEY,
    fraction_of,
    halvings_of,
    octaves_below,
    order_key,
    pack,
    packed_key,
    score_of,
    weight_of,
)
from .sampling_types import Edits, Settings
from .simd import prefetch_far

__all__ = ["edit_ref"]

AHEAD = 4096  # logits: how far before a pass memory is asked for them, as it takes long to answer
_MAX_SCORE = float(np.finfo(np.float32).max)


@inlined
def ask(logits, first):
    """Ask for the logits of a block that will follow the one at `first`."""
    for line in range(first + AHEAD, first + AHEAD + BLOCK, 16):
        prefetch_far(logits, line)


@inlined
def scan(logits, peaks):
    """The one pass over all logits (n_vocab,): fill `peaks`; return the highest of them."""
    highest = np.int32(-INF_KEY)
    for block in range(peaks.shape[0]):
        ask(logits, block * BLOCK)
        peaks[block] = peak_of_block(logits, block)
        highest = peaks[block] if peaks[block] > highest else highest
    return highest


@inlined
def take(known, peaks):
    """Fill `peaks` with those that are known already; return the highest of them."""
    highest = np.int32(-INF_KEY)
    for block in range(peaks.shape[0]):
        peaks[block] = known[block]
        highest = peaks[block] if peaks[block] > highest else highest
    return highest


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
    """Apply bias and penalties to `keys`. A bias of -inf masks; masked tokens stay so, all others stay finite."""
    for row in range(ids.shape[0]):
        token_id, count = ids[row], counts[row]
        load_block(logits, keys, loaded, token_id // BLOCK)
        if bias[row] == -np.inf:
            keys[token_id] = -INF_KEY
        elif keys[token_id] >= LOWEST_KEY:
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
def weigh_candidates(candidates, n, top, scale, floor, weights):
    """Fill weights[:n]; return the mass of candidates[:n], and of those whose key reaches `floor`."""
    total = mass_above = np.int64(0)
    for i in range(n):
        key = packed_key(candidates[i])
        octaves = octaves_below(key, top, scale)
        weights[i] = weight_of(fraction_of(octaves), halvings_of(octaves))
        total += weights[i]
        mass_above += weights[i] if key >= floor else 0
    return total, mass_above


@inlined
def first_at(logits, keys, loaded, peaks, key):
    """The lowest id whose key is `key`, the highest of all."""
    load_blocks(logits, keys, loaded, peaks, key)
    block = 0
    while peaks[block] < key:
        block += 1
    token_id = block * BLOCK
    while keys[token_id] < key:
        token_id += 1
    return token_id
