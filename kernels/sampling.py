"""Logits to a token id: bias, penalties, temperature, top-k, top-p, min-p and the draw, without sorting the vocabulary.

`distribution_ref` says in a few lines of numpy what is drawn from; `sample` is the fast path. Each filter keeps a
*prefix* of the tokens in order (probability descending, then id ascending), and the draw takes the token at which
the running sum of the kept probabilities passes u times their total. So there is one question, asked once or twice:
at which token, in order, does the sum pass a given mass? Two ways answer it:

* **few candidates** (top-k, or min-p alone): a threshold is found that as many tokens reach as are needed, and
  hardly more. These are collected and sorted.
* **a histogram** (all else): one pass sums the weights of all tokens. Then the most probable ones are collected, as
  many as hold the mass in question: some thousand of 150,000, as trained models go. The exact mass of each of 2625
  buckets of similar probability tells the bucket in which the sum passes; only its tokens, some dozen, are sorted.

Both give the same token. The order and the weights are explained in sampling_order.py, the passes over the
vocabulary are in sampling_passes.py. One thread does all of a token, in integers where sums matter, so that the result
depends on nothing but the arguments; the tokens of a step are shared out among threads by sampling_rows.py.

Logits come from memory, which costs more than what is computed. So one pass over them keeps the highest of each block
alone, where they are made (peaks.py) or else here (`scan`), and what follows loads the blocks that it looks at: one for
greedy sampling, few for top-k.
"""

from __future__ import annotations

import math

import numpy as np

from .cache import inlined, kernel
from .peaks import BLOCK
from .sampling_order import INF_KEY, LOWEST_KEY, MAX_OCTAVES, kth_largest, order_key, score_of, sort
from .sampling_passes import (
    Edits,
    Settings,
    Workspace,
    apply_edits,
    collect,
    collect_all,
    edit_ref,
    fill_masses,
    gather,
    load_blocks,
    renew_peaks,
    scan,
    take,
    weigh_above,
    weigh_all,
    weigh_candidates,
)

__all__ = [
    "ALL_MASKED",
    "NOT_FINITE",
    "Edits",
    "Settings",
    "Workspace",
    "distribution_ref",
    "edit_ref",
    "sample",
    "sample_ref",
]

NOT_FINITE = -1  # what `sample` returns for NaN or +inf among the logits ...
ALL_MASKED = -2  # ... and where all of them are -inf

_FEW = 1024  # more candidates than this are left to the histogram
_SAMPLED_BLOCKS = 37  # of the vocabulary, from which it is guessed how the mass is spread
_CAUTION = 0.8  # as much of the mass that may be left out is left out if the guess is right


def distribution_ref(scores: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Kept token ids, in order, and their probabilities (sum 1), from scores (n_vocab,)."""
    ids = np.argsort(-scores, kind="stable")  # stable: equal scores stay in order of their ids
    if settings.temperature == 0:
        return ids[:1], np.ones(1)
    ids = ids[: settings.top_k or None]
    weights = np.exp((scores[ids].astype(np.float64) - scores[ids[0]]) / settings.temperature)
    if settings.top_p < 1:
        kept = 1 + np.searchsorted(np.cumsum(weights), settings.top_p * weights.sum())
        ids, weights = ids[:kept], weights[:kept]
    kept = np.count_nonzero(weights >= settings.min_p)  # the first weight, that of the top token, is 1
    return ids[:kept], weights[:kept] / weights[:kept].sum()


def sample_ref(
    logits: np.ndarray, peaks: np.ndarray, work: Workspace, settings: Settings, edits: Edits, n_edits: int, u: float
) -> int:
    """Twin of `sample`: the token at which the sum of probabilities, in order, passes u. Scratch is not used."""
    if np.isnan(logits).any() or (logits == np.inf).any():
        return NOT_FINITE
    scores = edit_ref(logits, settings, edits, n_edits)
    if (scores == -np.inf).all():
        return ALL_MASKED
    ids, probabilities = distribution_ref(scores, settings)
    drawn = int(np.searchsorted(np.cumsum(probabilities), u, side="right"))
    return int(ids[min(drawn, len(ids) - 1)])


@kernel(twin=sample_ref)
def sample(logits, peaks, work, settings, edits, n_edits, u):
    """Draw a token id from logits (n_vocab,) float32, which stay as they are, or return an error code.

    peaks : (num_blocks,) of the logits, see `block_peaks`, or none if they are not known
    work : scratch
    The first `n_edits` rows of `edits` count; u in [0, 1) is the random number of this draw.
    """
    top_key = take(peaks, work.peaks) if peaks.shape[0] > 0 else scan(logits, work.peaks)
    if top_key >= INF_KEY:
        return NOT_FINITE
    if top_key == -INF_KEY:
        return ALL_MASKED
    work.loaded[:] = 0
    if n_edits > 0:
        apply_edits(
            logits,
            work.keys,
            work.loaded,
            edits.ids[:n_edits],
            edits.bias,
            edits.counts,
            settings.repetition_penalty,
            settings.presence_penalty,
            settings.frequency_penalty,
        )
        top_key = renew_peaks(work.keys, work.loaded, work.peaks)
        if top_key == -INF_KEY:
            return ALL_MASKED
    if settings.temperature == 0:
        load_blocks(logits, work.keys, work.loaded, work.peaks, top_key)
        return _first_at(work, top_key)
    top, scale = score_of(top_key), _scale(settings.temperature)
    floor = _min_p_key(top, settings)
    n = _collect_few(logits, work, settings, top_key, scale, floor)
    if n > 0:
        return _draw_from_few(work, settings, n, top, scale, floor, u)
    return _draw_from_all(logits, work, settings, top_key, scale, floor, u)


# The parts of `sample` are pasted into it before types are known (inline="always"), which compiles fastest; the
# passes over the vocabulary are compiled one by one.


@inlined(inline="always")
def _first_at(work, key):
    """The lowest id whose key is `key`, the highest of all."""
    block = 0
    while work.peaks[block] < key:
        block += 1
    token_id = block * BLOCK
    while work.keys[token_id] < key:
        token_id += 1
    return token_id


@inlined(inline="always")
def _scale(temperature):
    """log2(e) / temperature, kept finite so that 0 times it is 0."""
    return np.float32(min(math.log2(math.e) / temperature, 3e38))


@inlined
def _key_below(top, distance):
    """Key of the score `distance` logits below `top`, or of the lowest finite score where that is higher."""
    key = order_key(np.float32(np.float64(top) - distance))
    return key if key > LOWEST_KEY else LOWEST_KEY


@inlined(inline="always")
def _min_p_key(top, settings):
    """The lowest key that min-p keeps: p >= min_p * p_top means score >= top + temperature * ln(min_p)."""
    return _key_below(top, -settings.temperature * math.log(settings.min_p) if settings.min_p > 0 else np.inf)


@inlined(inline="always")
def _collect_few(logits, work, settings, top_key, scale, floor):
    """Collect candidates that hold the kept prefix where settings make them few; their number, or 0 where not.

    Tokens of weight 0 stay out: they are never drawn, and under a mask they may be nearly all.
    """
    threshold = _key_below(score_of(top_key), (MAX_OCTAVES + 1) / np.float64(scale))
    if 0 < settings.top_k < logits.shape[0]:
        # k blocks with peaks that high hold k tokens that high, so that few keys tell about many
        keys = work.peaks if settings.top_k <= work.peaks.shape[0] else work.keys
        if settings.top_k > work.peaks.shape[0]:
            load_blocks(logits, work.keys, work.loaded, work.peaks, -INF_KEY)
        threshold, limit = kth_largest(keys, settings.top_k, threshold, top_key), 2 * work.keys.shape[0]
    elif settings.min_p > 0 and settings.top_p == 1:
        threshold, limit = floor if floor > threshold else threshold, _FEW
    else:
        return 0
    load_blocks(logits, work.keys, work.loaded, work.peaks, threshold)
    return collect(work.keys, work.peaks, threshold, limit, work.candidates)


@inlined(inline="always")
def _nucleus(top_p, total):
    """The least mass that makes up a fraction `top_p` of `total`; float64 may round above `total` itself."""
    return min(np.int64(math.ceil(top_p * total)), total)


@inlined(inline="always")
def _share(u, mass):
    """The fraction u in [0, 1) of `mass`: an integer in [0, mass)."""
    return min(np.int64(u * mass), mass - 1)


@inlined
def _pass_mass(weights, mass, target):
    """Where the running sum of `weights`, which starts from `mass`, passes `target`; and the sum there."""
    position = 0
    mass += weights[0]
    while mass <= target:
        position += 1
        mass += weights[position]
    return position, mass


@inlined(inline="always")
def _draw_from_few(work, settings, n, top, scale, floor, u):
    """Draw from the first n candidates, of which top-k, top-p and min-p may drop some."""
    sort(work.candidates, n)
    n = min(n, settings.top_k) if settings.top_k > 0 else n
    total, kept = weigh_candidates(work.candidates, n, top, scale, floor, work.weights)
    _, nucleus = _pass_mass(work.weights, np.int64(0), _nucleus(settings.top_p, total) - 1)
    position, _ = _pass_mass(work.weights, np.int64(0), _share(u, min(kept, nucleus)))
    return work.candidates[position] & 0xFFFFFFFF


@inlined(inline="always")
def _draw_from_all(logits, work, settings, top_key, scale, floor, u):
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
    if settings.min_p > 0:
        kept = weigh_above(logits, work.keys, work.loaded, work.peaks, top, scale, floor, work.fractions, work.halvings)
    cut = settings.top_p < 1  # first find where top-p cuts, then draw; or draw at once
    target = _nucleus(settings.top_p, total) - 1 if cut else _share(u, kept)
    n = _find_mass(logits, work, target, total, top, scale, stride)
    while True:
        position, mass = _locate(work, n, target, top, scale)
        if not cut:
            return work.candidates[position] & 0xFFFFFFFF
        cut, target = False, _share(u, min(kept, mass))


@inlined(inline="always")
def _find_mass(logits, work, target, total, top, scale, stride):
    """Find the most probable tokens, so many that they hold more than `target`, and fill `masses`; their number."""
    rest = np.float64(total - target)
    octaves = _guess_octaves(work.octave_masses, rest * _CAUTION / stride)
    # From the token at `target` on, n tokens at most share the rest of the mass, and none has a weight above that
    # token's: so its weight is rest / n or more. (MAX_OCTAVES is one more than the top's: ample for rounding.)
    enough = MAX_OCTAVES - math.log2(rest / work.keys.shape[0])
    while True:
        threshold = _key_below(top, min(octaves, enough) / np.float64(scale))
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
    return _pass_mass(work.weights, before, target)
