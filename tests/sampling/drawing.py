"""Calls of the sampling kernel for tests, and what can be concluded from them."""

from __future__ import annotations

import numpy as np

from densecore.kernels.block_masses import NO_MASSES, block_masses, halvings_per_logit
from densecore.kernels.peaks import block_peaks, num_blocks
from densecore.kernels.sampling import (
    NOTHING_KNOWN,
    UNDECIDED,
    Edits,
    Known,
    Settings,
    Workspace,
    distribution_ref,
    draws_by_blocks_ref,
    edit_ref,
    sample,
)

OFF = Settings(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    typical_p=1.0,
    max_surprise=np.inf,
)
NO_EDITS = Edits(np.zeros(1, np.int32), np.zeros(1), np.zeros(1, np.int32))
TOLERANCE = 1e-6


def peaks_of(logits):
    """The peaks of logits (num_rows, n_vocab), as a model leaves them."""
    peaks = np.empty((len(logits), num_blocks(logits.shape[1])), np.int32)
    block_peaks(logits, peaks)
    return peaks


def masses_of(logits, peaks, temperature):
    """The masses of logits (num_rows, n_vocab), as a model leaves them."""
    masses = np.full(peaks.shape, np.nan, np.float32)
    block_masses(logits, peaks, np.full(len(logits), halvings_per_logit(temperature), np.float32), masses)
    return masses


def known_of(logits, settings):
    """What a model's step may leave beside logits (n_vocab,): nothing, peaks, or masses too."""
    peaks = peaks_of(logits[None])
    result = [NOTHING_KNOWN, Known(peaks[0], NO_MASSES)]
    if settings.temperature > 0:
        result.append(Known(peaks[0], masses_of(logits[None], peaks, settings.temperature)[0]))
    return result


def draw(logits, settings, u, edits=NO_EDITS, n_edits=0):
    """The token that the fast path draws for the random number u, whatever is known of the logits."""
    logits = np.asarray(logits, np.float32)
    [token_id] = {
        sample(logits, known, Workspace.create(len(logits)), settings, edits, n_edits, u)
        for known in known_of(logits, settings)
    }
    return token_id


def probes(probabilities):
    """Numbers in [0, 1) about where the cumulative distribution steps, at most some dozen."""
    steps = np.cumsum(probabilities)
    steps = steps[np.linspace(0, len(steps) - 1, min(len(steps), 12)).astype(int)]
    u = np.concatenate([[0.0, 0.5, 1 - 1e-9], steps - 2 * TOLERANCE, steps + 2 * TOLERANCE])
    return u[(u >= 0) & (u < 1)]


def assert_draws_from(logits, settings, ids, probabilities, edits=NO_EDITS, n_edits=0):
    """The fast path's cumulative distribution is that of `ids` in order, within the tolerance.

    So it keeps the same tokens: the steps tell their probabilities, and 0 and 1 the ends.
    """
    if draws_by_blocks_ref(settings, len(logits)):
        assert_draws_by_blocks(logits, settings, ids, edits, n_edits)
        return
    upper = np.cumsum(probabilities)
    position = {int(token_id): i for i, token_id in enumerate(ids)}
    for u in probes(probabilities):
        token_id = draw(logits, settings, float(u), edits, n_edits)
        assert token_id in position, f"u = {u} draws token {token_id}, which is not kept"
        i = position[token_id]
        assert upper[i] - probabilities[i] - TOLERANCE <= u <= upper[i] + TOLERANCE


def assert_draws_by_blocks(logits, settings, kept, edits, n_edits):
    """The fast path's cumulative distribution is that of all tokens in order of their ids, where it keeps them.

    Where it does not, another one comes that it keeps.
    """
    scores = edit_ref(np.asarray(logits, np.float32), settings, edits, n_edits)
    ids, probabilities = distribution_ref(scores, settings._replace(top_p=1.0, typical_p=1.0))
    places = np.flatnonzero(np.isin(ids, kept))
    edges = np.unique([*places[:1] - 1, *places[:1], *places[-1:], *places[-1:] + 1]).clip(0, len(ids) - 1)
    by_id = np.zeros(len(logits))
    by_id[ids] = probabilities
    probabilities = by_id
    upper, kept = np.cumsum(probabilities), set(map(int, kept))
    lower = upper - probabilities
    middles = [(lower + upper)[token_id] / 2 for token_id in ids[edges] if probabilities[token_id] > 4 * TOLERANCE]
    for u in [*probes(probabilities), *middles]:
        token_id = draw(logits, settings, float(u), edits, n_edits)
        if token_id == UNDECIDED:
            continue
        assert token_id in kept, f"u = {u} draws token {token_id}, which is not kept"
        as_drawn_first = lower[token_id] - TOLERANCE <= u <= upper[token_id] + TOLERANCE
        candidates = np.flatnonzero((probabilities > 0) & (lower - TOLERANCE <= u) & (u <= upper + TOLERANCE))
        assert as_drawn_first or not kept.issuperset(candidates.tolist())


def assert_like_twin(logits, settings, edits=NO_EDITS, n_edits=0):
    """The fast path draws from what `distribution_ref` says."""
    scores = edit_ref(np.asarray(logits, np.float32), settings, edits, n_edits)
    assert_draws_from(logits, settings, *distribution_ref(scores, settings), edits, n_edits)
