"""Logits to a token id: bias, penalties, temperature, top-k, top-p, min-p and the draw, without sorting the vocabulary.

`distribution_ref` says in a few lines of numpy what is drawn from, `sample_ref` how; `sample` is the fast path. Each
filter keeps a *prefix* of the tokens in order (probability descending, then id ascending). There are three ways:

* **by blocks** (without top-k), where all tokens may be candidates: sums of whole blocks tell in which one the random
  number falls, see sampling_blocks.py. Tokens are in order of their ids, and one that top-p or typical-p does not keep
  is drawn again, with the next random number.
* **few candidates** (top-k): a threshold is found that as many tokens reach as are needed, and hardly more. These are
  collected and sorted, and the draw takes the token at which the running sum of the kept probabilities, most probable
  first, passes u times their total.
* **a histogram** (where top-p has rejected several draws): also most probable first, without sorting all that are kept,
  see sampling_histogram.py.

The order and the weights are explained in sampling_order.py, the passes over blocks are in sampling_passes.py. One
thread does all of a token, and sums are of integers or in an order that is fixed, so that the result depends on nothing
but the arguments; the tokens of a step are shared out among threads by sampling_rows.py.

Logits come from memory, which costs more than what is computed. So the highest of each block, and its mass, are kept
where logits are made (peaks.py, block_masses.py) or else by a pass over them, and what follows loads the blocks that it
looks at: one for greedy sampling and to draw by temperature alone, few for top-k.
"""

from __future__ import annotations

import math

import numpy as np

from .block_masses import halvings_per_logit
from .cache import inlined, kernel
from .peaks import BLOCK
from .sampling_blocks import (
    NUM_TRIES,
    add_masses,
    add_masses_above,
    find_masses,
    is_kept,
    mean_octaves,
    next_uniform,
    next_uniform_ref,
    token_at,
)
from .sampling_histogram import draw_from_all
from .sampling_order import (
    INF_KEY,
    MAX_OCTAVES,
    key_below,
    kth_largest,
    nucleus_mass,
    octaves_below,
    order_key,
    pass_mass,
    score_of,
    share_of_mass,
    sort,
)
from .sampling_passes import (
    apply_edits,
    collect,
    edit_ref,
    first_at,
    load_blocks,
    renew_peaks,
    scan,
    take,
    weigh_candidates,
)
from .sampling_types import NOTHING_KNOWN, Edits, Known, Settings, Workspace

__all__ = [
    "ALL_MASKED",
    "NOTHING_KNOWN",
    "NOT_FINITE",
    "UNDECIDED",
    "Edits",
    "Known",
    "Settings",
    "Workspace",
    "distribution_ref",
    "draws_by_blocks_ref",
    "edit_ref",
    "sample",
    "sample_ref",
    "sums_all_masses",
]

NOT_FINITE = -1  # what `sample` returns for NaN or +inf among the logits ...
ALL_MASKED = -2  # ... and where all of them are -inf
UNDECIDED = -3  # what it returns where typical-p did not keep what was drawn, again and again

_ONE = 2.0**40  # the weight of the most probable token


def distribution_ref(scores: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Kept token ids, in order, and their probabilities (sum 1), from scores (n_vocab,)."""
    ids = np.argsort(-scores, kind="stable")  # stable: equal scores stay in order of their ids
    if settings.temperature == 0:
        return ids[:1], np.ones(1)
    weights = np.exp((scores[ids].astype(np.float64) - scores[ids[0]]) / settings.temperature)
    floor = max(settings.min_p, weights.sum() * 2.0**-settings.max_surprise)
    if floor > 1:  # all are too surprising
        return ids[:1], np.ones(1)
    ids, weights = ids[: settings.top_k or None], weights[: settings.top_k or None]
    if settings.typical_p < 1:
        typical = _typical_ref(weights / weights.sum(), settings.typical_p)
        ids, weights = ids[typical], weights[typical]
    if settings.top_p < 1:
        kept = 1 + np.searchsorted(np.cumsum(weights), settings.top_p * weights.sum())
        ids, weights = ids[:kept], weights[:kept]
    kept = np.count_nonzero(weights >= floor)  # the floor is 0, or the first weight, that of the top token, is 1
    return ids[:kept], weights[:kept] / weights[:kept].sum()


def _typical_ref(probabilities: np.ndarray, mass: float) -> np.ndarray:
    """Positions of the fewest tokens, of the most typical surprise, that have this mass (Meister et al. 2022)."""
    surprise = -np.log2(np.maximum(probabilities, 1e-300))
    order = np.argsort(np.abs(surprise - probabilities @ surprise), kind="stable")
    return np.sort(order[: 1 + np.searchsorted(np.cumsum(probabilities[order]), mass)])


def draws_by_blocks_ref(settings: Settings, n_vocab: int) -> bool:
    """Whether tokens are drawn in order of their ids: everywhere but with top-k, and where nothing is drawn."""
    return settings.temperature > 0 and not 0 < settings.top_k < n_vocab


def sums_all_masses(settings: Settings, n_vocab: int) -> bool:
    """Whether the mass of all tokens has to be known to draw at a temperature."""
    has_top_k = 0 < settings.top_k < n_vocab
    has_min_p_alone = settings.min_p > 0 and min(settings.top_p, settings.typical_p) == 1
    return settings.max_surprise < np.inf or not (has_top_k or has_min_p_alone)


_draws_by_blocks = inlined(draws_by_blocks_ref)
_sums_all_masses = inlined(sums_all_masses)


def _draw_in_order_ref(ids: np.ndarray, probabilities: np.ndarray, u: float) -> int:
    """The token at which the running sum of probabilities passes u."""
    drawn = int(np.searchsorted(np.cumsum(probabilities), u, side="right"))
    return int(ids[min(drawn, len(ids) - 1)])


def sample_ref(
    logits: np.ndarray, known: Known, work: Workspace, settings: Settings, edits: Edits, n_edits: int, u: float
) -> int:
    """Twin of `sample`; of the scratch it uses the `surprise` alone."""
    work.surprise[0] = 0
    if np.isnan(logits).any() or (logits == np.inf).any():
        return NOT_FINITE
    scores = edit_ref(logits, settings, edits, n_edits)
    if (scores == -np.inf).all():
        return ALL_MASKED
    ids, probabilities = distribution_ref(scores, settings)
    if draws_by_blocks_ref(settings, len(scores)):
        every, their_probabilities = distribution_ref(scores, settings._replace(top_p=1.0, typical_p=1.0))
        by_id = np.argsort(every)
        for _ in range(NUM_TRIES):
            token_id = _draw_in_order_ref(every[by_id], their_probabilities[by_id], u)
            if token_id in ids:
                work.surprise[0] = -np.log2(their_probabilities[every == token_id][0])
                return token_id
            u = next_uniform_ref(u)
        if settings.typical_p < 1:
            return UNDECIDED
    token_id = _draw_in_order_ref(ids, probabilities, u)
    work.surprise[0] = -np.log2(probabilities[ids == token_id][0])
    return token_id


@kernel(twin=sample_ref)
def sample(logits, known, work, settings, edits, n_edits, u):
    """Draw a token id from logits (n_vocab,) float32, which stay as they are, or return one of the codes below 0.

    known : of the logits, see `Known`
    work : scratch; `surprise` is a result: bits, of the token among those that could be drawn
    The first `n_edits` rows of `edits` count; u in [0, 1) is the random number of this draw.
    """
    work.surprise[0] = 0.0
    top_key = take(known.peaks, work.peaks) if known.peaks.shape[0] > 0 else scan(logits, work.peaks)
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
        return first_at(logits, work.keys, work.loaded, work.peaks, top_key)
    total = np.int64(0)
    top, scale = score_of(top_key), np.float32(_halvings_per_logit(settings.temperature))
    octaves = np.float64(MAX_OCTAVES) + 1  # how far below the top tokens may be
    if _sums_all_masses(settings, logits.shape[0]):
        find_masses(logits, work.keys, work.loaded, work.peaks, known.masses, scale, work.block_masses)
        total = add_masses(work.peaks, work.block_masses, top, scale, work.totals)
        octaves = settings.max_surprise - math.log2(total / _ONE)
        if octaves < 0:
            return first_at(logits, work.keys, work.loaded, work.peaks, top_key)
    floor = _floor_key(top, settings, octaves / np.float64(scale))
    if _draws_by_blocks(settings, logits.shape[0]):
        kept, kept_totals = total, work.totals
        if settings.min_p > 0 or settings.max_surprise < np.inf:
            kept_totals = work.kept_totals
            kept = add_masses_above(logits, work.keys, work.loaded, work.peaks, floor, top, scale, kept_totals)
        center = np.inf if settings.typical_p == 1 else _typical_score(logits, work, total, top, scale)
        nucleus = nucleus_mass(min(settings.top_p, settings.typical_p), total)
        for _ in range(NUM_TRIES):
            token_id = token_at(
                logits, work.keys, work.loaded, work.peaks, kept_totals, floor, scale, share_of_mass(u, kept)
            )
            if nucleus >= total or _is_kept(logits, work, scale, token_id, center, nucleus):
                work.surprise[0] = _surprise(logits, work, top, scale, token_id, kept)
                return token_id
            u = next_uniform(u)
        if settings.typical_p < 1:
            return UNDECIDED
    n = _collect_few(logits, work, settings, top_key, scale)
    if n > 0:
        return _draw_from_few(work, settings, n, top, scale, floor, u)
    return draw_from_all(logits, work, settings, top_key, scale, floor, u)


# The parts of `sample` are pasted into it before types are known (inline="always"), which compiles fastest; the
# passes over the vocabulary are compiled one by one.

_halvings_per_logit = inlined(halvings_per_logit)


@inlined(inline="always")
def _typical_score(logits, work, total, top, scale):
    """The score whose surprise is the mean."""
    octaves = mean_octaves(
        logits, work.keys, work.loaded, work.peaks, work.block_masses, work.totals, total, top, scale
    )
    return np.float64(top) - octaves / np.float64(scale)


@inlined(inline="always")
def _is_kept(logits, work, scale, token_id, center, nucleus):
    """Whether a token is in the `nucleus`, a mass around the score `center`."""
    return is_kept(
        logits, work.keys, work.loaded, work.peaks, work.block_masses, work.totals, scale, token_id, center, nucleus
    )


@inlined(inline="always")
def _surprise(logits, work, top, scale, token_id, kept):
    """Bits, of a token among those of the mass `kept`."""
    key = work.keys[token_id] if work.loaded[token_id // BLOCK] else order_key(logits[token_id])
    return math.log2(kept / _ONE) + np.float64(octaves_below(key, top, scale))


@inlined(inline="always")
def _floor_key(top, settings, distance):
    """The lowest key that is kept: min-p's p >= min_p * p_top means score >= top + temperature * ln(min_p).

    distance : logits below the top beyond which tokens are too surprising
    """
    if settings.min_p > 0:
        distance = min(distance, -settings.temperature * math.log(settings.min_p))
    return key_below(top, distance)


@inlined(inline="always")
def _collect_few(logits, work, settings, top_key, scale):
    """Collect candidates that hold the kept prefix where top-k makes them few; their number, or 0 where not.

    Tokens of weight 0 stay out: they are never drawn, and under a mask they may be nearly all.
    """
    threshold = key_below(score_of(top_key), (MAX_OCTAVES + 1) / np.float64(scale))
    if 0 < settings.top_k < logits.shape[0]:
        # k blocks with peaks that high hold k tokens that high, so that few keys tell about many
        keys = work.peaks if settings.top_k <= work.peaks.shape[0] else work.keys
        if settings.top_k > work.peaks.shape[0]:
            load_blocks(logits, work.keys, work.loaded, work.peaks, -INF_KEY)
        threshold, limit = kth_largest(keys, settings.top_k, threshold, top_key), 2 * work.keys.shape[0]
    else:
        return 0
    load_blocks(logits, work.keys, work.loaded, work.peaks, threshold)
    return collect(work.keys, work.peaks, threshold, limit, work.candidates)


@inlined(inline="always")
def _draw_from_few(work, settings, n, top, scale, floor, u):
    """Draw from the first n candidates, of which top-k, top-p and the floor may drop some."""
    sort(work.candidates, n)
    n = min(n, settings.top_k) if settings.top_k > 0 else n
    total, kept = weigh_candidates(work.candidates, n, top, scale, floor, work.weights)
    _, nucleus = pass_mass(work.weights, np.int64(0), nucleus_mass(settings.top_p, total) - 1)
    kept = min(kept, nucleus)
    position, _ = pass_mass(work.weights, np.int64(0), share_of_mass(u, kept))
    work.surprise[0] = math.log2(kept / work.weights[position])
    return work.candidates[position] & 0xFFFFFFFF
