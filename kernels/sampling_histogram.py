"""Drawing where candidates are many, most probable first, without sorting them.

One pass sums the weights of all tokens. Then the most probable ones are collected, as many as hold the mass in
question: some thousand of 150,000, as trained models go. The exact mass of each of 2625 buckets of similar probability
tells the bucket in which the running sum passes; only its tokens, some dozen, are sorted.

The inner loops over all tokens vectorise; what goes token by token, the sums of the histogram, sees those alone that
were picked out before.
"""

from __future__ import annotations

import math

import numpy as np

from .cache import inlined
from .peaks import BLOCK
from .sampling_order import (
    BUCKETS_PER_OCTAVE,
    LOWEST_KEY,
    MAX_OCTAVES,
    bucket_of,
    fraction_of,
    halvings_of,
    key_below,
    nucleus_mass,
    octaves_below,
    order_key,
    pack,
    pass_mass,
    score_of,
    share_of_mass,
    sort,
    weight_of,
)
from .sampling_passes import ask, load_block, weigh_candidates

__all__: list[str] = []

PART = 16  # tokens of a block that are looked at one by one if any of them is wanted
_SAMPLED_BLOCKS = 37  # of the vocabulary, from which it is guessed how the mass is spread
_CAUTION = 0.8  # as much of the mass that may be left out is left out if the guess is right


@inlined(inline="always")
def draw_from_all(logits, work, settings, top_key, scale, floor, u):
    """Draw where candidates are many, with the help of the histogram."""
    top, stride = score_of(top_key), max(1, work.peaks.shape[0] // _SAMPLED_BLOCKS)
    total = kept = weigh_all(
        logits,
        work.keys,
        work.loaded,
        work.peaks,
        top,
        scale,
        stride,
        work.fractions,
        work.halvings,
        work.octave_masses,
    )
    if settings.min_p > 0 or settings.max_surprise < np.inf:
        kept = weigh_above(logits, work.keys, work.loaded, work.peaks, top, scale, floor, work.fractions, work.halvings)
    cut = settings.top_p < 1  # first find where top-p cuts, then draw; or draw at once
    target = nucleus_mass(settings.top_p, total) - 1 if cut else share_of_mass(u, kept)
    n = _find_mass(logits, work, target, total, top, scale, stride)
    while True:
        position, mass = _locate(work, n, target, top, scale)
        if not cut:
            work.surprise[0] = math.log2(kept / work.weights[position])
            return work.candidates[position] & 0xFFFFFFFF
        kept = min(kept, mass)
        cut, target = False, share_of_mass(u, kept)


@inlined(inline="always")
def _find_mass(logits, work, target, total, top, scale, stride):
    """Find the most probable tokens, so many that they hold more than `target`, and fill `masses`; their number."""
    rest = np.float64(total - target)
    octaves = _guess_octaves(work.octave_masses, rest * _CAUTION / stride)
    # From the token at `target` on, n tokens at most share the rest of the mass, and none has a weight above that
    # token's: so its weight is rest / n or more. (MAX_OCTAVES is one more than the top's: ample for rounding.)
    enough = MAX_OCTAVES - math.log2(rest / work.keys.shape[0])
    while True:
        threshold = key_below(top, min(octaves, enough) / np.float64(scale))
        n = collect_all(logits, work.keys, work.loaded, work.peaks, threshold, work.found_keys, work.found_ids)
        mass = fill_masses(work.found_keys, n, top, scale, work.fractions, work.buckets, work.masses)
        if mass > target or octaves >= enough:
            return n
        octaves = enough


@inlined(inline="always")
def _guess_octaves(octave_masses, rest):
    """How many octaves below the top the threshold has to be for no more than `rest` to lie below it."""
    octaves = octave_masses.shape[0]
    left = np.float64(0)
    while octaves > 1 and left + octave_masses[octaves - 1] <= rest:
        octaves -= 1
        left += octave_masses[octaves]
    return np.float64(octaves)


@inlined(inline="always")
def _locate(work, n, target, top, scale):
    """Gather those of the n tokens found in whose bucket the running sum of weights, in order, passes `target`.

    Returns the position among these candidates where it does, and the sum there.
    """
    bucket, before = 0, np.int64(0)
    while before + work.masses[bucket] <= target:
        before += work.masses[bucket]
        bucket += 1
    count = gather(work.found_keys, work.found_ids, work.buckets, n, np.uint16(bucket), work.candidates)
    sort(work.candidates, count)
    weigh_candidates(work.candidates, count, top, scale, LOWEST_KEY, work.weights)
    return pass_mass(work.weights, before, target)


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
