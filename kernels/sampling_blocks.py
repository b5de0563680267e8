"""Drawing from all tokens of a vocabulary by looking at few of them.

With the mass of each block (block_masses.py) a token is drawn in two steps: a block, by the sum of the masses, and then
a token in it. Tokens are in order of their ids here, as blocks are.

Top-p keeps a token if those before it, by probability, have less than a fraction p of the mass. To find where it cuts
takes passes over all tokens. To see whether *one* token is kept is cheaper: blocks whose peaks are below it hold
nothing that comes before it, and of the others each that is looked at tells how much of its mass does. As soon as
enough is known not to, the token is kept. For a token in the middle of a flat distribution
and p = 0.95 that is after a tenth of the vocabulary; in a distribution with peaks it is at once. So a token is drawn
from all, and if it is not kept, which happens with a probability of 1 - p at most, again: what is kept in the end has
the distribution that top-p leaves.

Typical-p keeps tokens by how near their surprise is to the mean, where top-p has the most probable ones first. That is
another order of the same scores, by their distance from the one at the mean, so that the same is done with intervals.

Min-p, and the bound that mirostat sets, keep all tokens above a score. They are drawn from in the same way, with masses
of the kept tokens, for which only blocks that have some are looked at.
"""

from __future__ import annotations

import numpy as np

from .block_masses import mass_between, mass_of_block, moment_of, weigh_scores
from .cache import inlined
from .peaks import BLOCK
from .sampling_order import INF_KEY, MAX_OCTAVES, fraction_of, halvings_of, order_key, score_of, weight_of
from .sampling_passes import ask
from .simd import local_array

__all__ = ["NUM_TRIES", "next_uniform_ref"]

NUM_TRIES = 8  # draws that may be rejected, before the cut is found after all

_MASK = 2**64 - 1
_GAMMA, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def next_uniform_ref(u: float) -> float:
    """The random number in [0, 1) of a draw after the one for u: SplitMix64's (Steele et al. 2014) of its bits."""
    z = (int(u * 2.0**53) + _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


@inlined
def next_uniform(u):
    """Twin of `next_uniform_ref`."""
    z = np.uint64(np.int64(u * 2.0**53)) + np.uint64(_GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return np.float64(np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(11))) * 2.0**-53


@inlined
def scores_of_block(logits, keys, loaded, block, scores):
    """Fill scores (BLOCK,), -inf behind the vocabulary, with those of one block after edits."""
    first = block * BLOCK
    for i in range(BLOCK):
        if loaded[block]:
            scores[i] = score_of(keys[first + i])
        else:
            scores[i] = logits[first + i] if first + i < logits.shape[0] else np.float32(-np.inf)


@inlined
def find_masses(logits, keys, loaded, peaks, known, scale, masses):
    """Fill masses (n_blocks,) with the known ones, where they are known and edits did not change them."""
    for block in range(peaks.shape[0]):
        if loaded[block]:
            scores = local_array(np.float32, BLOCK)
            scores_of_block(logits, keys, loaded, block, scores)
            masses[block] = mass_of_block(scores, 0, peaks[block], scale)
        elif known.shape[0] > 0:
            masses[block] = known[block]
        else:
            ask(logits, block * BLOCK)
            masses[block] = mass_of_block(logits, block, peaks[block], scale)


@inlined
def add_masses(peaks, masses, top, scale, totals):
    """Fill totals (n_blocks,) int64, the masses relative to the score `top`, with 40 fractional bits; their sum."""
    for block in range(peaks.shape[0]):
        octaves = (top - score_of(peaks[block])) * scale
        octaves = octaves if octaves < MAX_OCTAVES else MAX_OCTAVES
        weight = weight_of(fraction_of(octaves), halvings_of(octaves))
        totals[block] = np.int64(np.float64(weight) * np.float64(masses[block]))
    total = np.int64(0)
    for block in range(peaks.shape[0]):
        total += totals[block]
    return total


@inlined
def add_masses_above(logits, keys, loaded, peaks, floor, top, scale, kept_totals):
    """The same of the tokens whose keys reach `floor`: only blocks with such tokens are looked at."""
    limit = score_of(np.int32(floor - 1))
    total = np.int64(0)
    for block in range(peaks.shape[0]):
        kept_totals[block] = 0
        if peaks[block] >= floor:
            peak, first = score_of(peaks[block]), block * BLOCK
            octaves = (top - peak) * scale
            octaves = octaves if octaves < MAX_OCTAVES else MAX_OCTAVES
            if not loaded[block] and first + BLOCK <= logits.shape[0]:
                ask(logits, first)
                mass = mass_between(logits, first, peak, scale, limit, np.float32(np.inf))
            else:
                scores = local_array(np.float32, BLOCK)
                scores_of_block(logits, keys, loaded, block, scores)
                mass = mass_between(scores, 0, peak, scale, limit, np.float32(np.inf))
            weight = weight_of(fraction_of(octaves), halvings_of(octaves))
            kept_totals[block] = np.int64(np.float64(weight) * np.float64(mass))
            total += kept_totals[block]
    return total


@inlined
def token_at(logits, keys, loaded, peaks, totals, floor, scale, target):
    """The token at which the running sum of weights, in order of ids, passes `target`: 0 to the sum of `totals` - 1.

    totals : of those whose keys reach `floor`; only these count
    """
    block, before = 0, np.int64(0)
    while before + totals[block] <= target:
        before += totals[block]
        block += 1
    scores, weights = local_array(np.float32, BLOCK), local_array(np.float32, BLOCK)
    scores_of_block(logits, keys, loaded, block, scores)
    weigh_scores(scores, score_of(peaks[block]), scale, weights)
    whole = np.float64(0)
    for i in range(BLOCK):
        weights[i] = weights[i] if order_key(scores[i]) >= floor else np.float32(0)
        whole += np.float64(weights[i])
    target_inside = np.float64(target - before) / np.float64(totals[block]) * whole  # below `whole`
    place, passed = 0, np.float64(weights[0])
    while passed <= target_inside:
        place += 1
        passed += np.float64(weights[place])
    return block * BLOCK + place


@inlined
def mean_octaves(logits, keys, loaded, peaks, masses, totals, total, top, scale):
    """Mean of how many octaves below `top` tokens are, by their probabilities.

    Blocks of hardly any mass stay out, which changes it by 2**-30 at most.
    """
    negligible = total // (np.int64(2**36) * peaks.shape[0])  # octaves are below 2**6
    moment = np.float64(0)
    for block in range(peaks.shape[0]):
        if totals[block] > negligible:
            peak, first = score_of(peaks[block]), block * BLOCK
            if not loaded[block] and first + BLOCK <= logits.shape[0]:
                ask(logits, first)
                inside = moment_of(logits, first, peak, scale)
            else:
                scores = local_array(np.float32, BLOCK)
                scores_of_block(logits, keys, loaded, block, scores)
                inside = moment_of(scores, 0, peak, scale)
            octaves = np.float64((top - peak) * scale) + np.float64(inside) / np.float64(masses[block])
            moment += np.float64(totals[block]) * octaves
    return moment / np.float64(total)


@inlined
def limits(key, mirror, is_before):
    """Keys between which lie the tokens that go before a token with this key, in blocks before its own or after it.

    Both are excluded. Tokens go in order of their distance from a typical score, and `mirror` is as far from it on the
    other side. Of two at the same distance the more probable one goes first, then the lower id. For top-p the most
    probable one is typical.
    """
    if mirror < key:
        return mirror, np.int32(key + is_before)
    return np.int32(key - is_before), np.int32(mirror + 1)


@inlined
def mass_before(logits, keys, loaded, peaks, masses, totals, scale, block, low, high):
    """How much of a block's share of `totals` belongs to tokens between the keys `low` and `high`."""
    peak, first = score_of(peaks[block]), block * BLOCK
    if not loaded[block] and first + BLOCK <= logits.shape[0]:
        ask(logits, first)
        between = mass_between(logits, first, peak, scale, score_of(low), score_of(high))
    else:
        scores = local_array(np.float32, BLOCK)
        scores_of_block(logits, keys, loaded, block, scores)
        between = mass_between(scores, 0, peak, scale, score_of(low), score_of(high))
    return np.int64(np.float64(totals[block]) * (np.float64(between) / np.float64(masses[block])))


@inlined
def mass_before_inside(logits, keys, loaded, peaks, totals, scale, token_id, mirror):
    """The same for the token's own block, where ids decide one by one."""
    block = token_id // BLOCK
    place = token_id - block * BLOCK
    scores, weights = local_array(np.float32, BLOCK), local_array(np.float32, BLOCK)
    scores_of_block(logits, keys, loaded, block, scores)
    weigh_scores(scores, score_of(peaks[block]), scale, weights)
    whole = before = np.float64(0)
    for i in range(BLOCK):
        whole += np.float64(weights[i])
        low, high = limits(order_key(scores[place]), mirror, np.int32(i < place))
        key = order_key(scores[i])
        before += np.float64(weights[i]) if low < key < high else 0.0
    return np.int64(np.float64(totals[block]) * (before / whole))


@inlined
def is_kept(logits, keys, loaded, peaks, masses, totals, scale, token_id, center, nucleus):
    """Whether the tokens nearer to the score `center`, float64, than this one have less than the mass `nucleus`.

    Those at the same distance as well, if they go before it; see `limits`. For top-p `center` is +inf.
    """
    own = token_id // BLOCK
    key = keys[token_id] if loaded[own] else order_key(logits[token_id])
    mirror = order_key(np.float32(2 * center - np.float64(score_of(key))))
    mirror = min(max(mirror, np.int32(-INF_KEY)), np.int32(INF_KEY - 1))
    least = most = mass_before_inside(logits, keys, loaded, peaks, totals, scale, token_id, mirror)
    for block in range(peaks.shape[0]):
        low, _ = limits(key, mirror, np.int32(block < own))
        if block != own and peaks[block] > low:
            most += totals[block]
    for block in range(peaks.shape[0]):
        if most < nucleus or least >= nucleus:
            break
        low, high = limits(key, mirror, np.int32(block < own))
        if block != own and peaks[block] > low:
            part = mass_before(logits, keys, loaded, peaks, masses, totals, scale, block, low, high)
            least += part
            most -= totals[block] - part
    return most < nucleus
