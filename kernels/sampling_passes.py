"""What sampling works on, and its passes over the vocabulary.

The inner loops over all tokens vectorise; what goes token by token, such as the sums of the histogram, sees those alone
that were picked out before.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cache import inlined
from .peaks import BLOCK, num_blocks, peak_of_block
from .sampling_order import (
    BUCKETS_PER_OCTAVE,
    INF_KEY,
    LOWEST_KEY,
    MAX_OCTAVES,
    N_BUCKETS,
    bucket_of,
    fraction_of,
    halvings_of,
    octaves_below,
    order_key,
    pack,
    packed_key,
    score_of,
    weight_of,
)
from .simd import prefetch_far

__all__ = ["Edits", "Settings", "Workspace", "edit_ref"]

AHEAD = 4096  # logits: how far before a pass memory is asked for them, as it takes long to answer
PART = 16  # tokens of a block that are looked at one by one if any of them is wanted
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
    bias: np.ndarray  # (capacity,) float64, added to the logit; -inf forbids the token
    counts: np.ndarray  # (capacity,) int32: times in the output; 0 if in the prompt only, -1 if in neither


class Workspace(NamedTuple):
    """Scratch of `sample` for one vocabulary size, reused from token to token: 34 bytes a token of the vocabulary.

    Several of them, for as many workers, are the same arrays with one more axis in front.
    """

    keys: np.ndarray  # (n_blocks * BLOCK,) int32, order_key of each score; behind the vocabulary that of -inf
    loaded: np.ndarray  # (n_blocks,) uint8, whether `keys` holds a block: only those that are looked at
    peaks: np.ndarray  # (n_blocks,) int32, the highest key of each block
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
def collect_all(logits, keys, loaded, peaks, threshold, found_keys, found_ids):
    """Write key and id of each token that reaches `threshold`, ids ascending; return their number."""
    n = 0
    lowest = score_of(threshold)
    for block in range(peaks.shape[0]):
        if peaks[block] < threshold:
            continue
        first = block * BLOCK
        ask(logits, first)
        if not loaded[block] and first + BLOCK <= logits.shape[0]:
            for part in range(first, first + BLOCK, PART):
                hit = False
                for i in range(part, part + PART):
                    hit |= logits[i] >= lowest
                if hit:
                    for i in range(part, part + PART):  # without a branch, which could not be foreseen
                        found_keys[n], found_ids[n] = order_key(logits[i]), i
                        n += logits[i] >= lowest
        else:
            load_block(logits, keys, loaded, block)
            for i in range(first, first + BLOCK):
                found_keys[n], found_ids[n] = keys[i], i
                n += keys[i] >= threshold
    return n


@inlined
def fill_masses(found_keys, n, top, scale, fractions, buckets, masses):
    """Sum the weights of the tokens that were found into the `masses` of their buckets; return their whole mass."""
    for bucket in range(masses.shape[0]):
        masses[bucket] = 0
    for i in range(n):
        octaves = octaves_below(found_keys[i], top, scale)
        fractions[i] = fraction_of(octaves)
        buckets[i] = bucket_of(octaves)
    total = np.int64(0)
    for i in range(n):
        weight = weight_of(fractions[i], buckets[i] // BUCKETS_PER_OCTAVE)
        masses[buckets[i]] += weight
        total += weight
    return total


@inlined
def gather(found_keys, found_ids, buckets, n, bucket, candidates):
    """Pack those of the n tokens that were found that are in one bucket (uint16); return their number."""
    count = 0
    for i in range(n):
        if buckets[i] == bucket:
            candidates[count] = pack(found_keys[i], found_ids[i])
            count += 1
    return count


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
def weigh_logits(logits, first, top, scale, fractions, halvings):
    """Fill fractions and halvings (BLOCK,) of the tokens from `first` on, without keys."""
    for j in range(BLOCK):
        octaves = (top - logits[first + j]) * scale
        octaves = octaves if octaves < MAX_OCTAVES else MAX_OCTAVES
        fractions[j] = fraction_of(octaves)
        halvings[j] = halvings_of(octaves)


@inlined
def weigh_keys(keys, first, top, scale, floor, fractions, halvings):
    """Fill fractions and halvings (BLOCK,) of the tokens from `first` on; those below `floor` weigh 0."""
    for j in range(BLOCK):
        octaves = octaves_below(keys[first + j], top, scale)
        fractions[j] = fraction_of(octaves) if keys[first + j] >= floor else np.uint32(0)
        halvings[j] = halvings_of(octaves)


@inlined
def mass_of_block(fractions, halvings):
    """Sum of the weights of a block. The loops are apart because they take vectors of different lengths."""
    mass = np.int64(0)
    for j in range(BLOCK):
        mass += weight_of(fractions[j], halvings[j])
    return mass


@inlined
def weigh_all(logits, keys, loaded, peaks, top, scale, stride, fractions, halvings, octave_masses):
    """Mass of all tokens; `octave_masses` (MAX_OCTAVES + 1,) gets that of each octave in every `stride`-th block."""
    octave_masses[:] = 0
    total = np.int64(0)
    for block in range(peaks.shape[0]):
        first = block * BLOCK
        ask(logits, first)
        if not loaded[block] and first + BLOCK <= logits.shape[0]:
            weigh_logits(logits, first, top, scale, fractions, halvings)
        else:
            load_block(logits, keys, loaded, block)
            weigh_keys(keys, first, top, scale, LOWEST_KEY, fractions, halvings)
        total += mass_of_block(fractions, halvings)
        if block % stride == 0:
            for j in range(BLOCK):
                octave_masses[halvings[j]] += weight_of(fractions[j], halvings[j])
    return total


@inlined
def weigh_above(logits, keys, loaded, peaks, top, scale, floor, fractions, halvings):
    """Mass of the tokens whose keys reach `floor`."""
    total = np.int64(0)
    for block in range(peaks.shape[0]):
        if peaks[block] >= floor:
            load_block(logits, keys, loaded, block)
            weigh_keys(keys, block * BLOCK, top, scale, floor, fractions, halvings)
            total += mass_of_block(fractions, halvings)
    return total
