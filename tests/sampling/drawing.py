"""Calls of the sampling kernel for tests, and what can be concluded from them."""

from __future__ import annotations

import numpy as np

from densecore.kernels.peaks import NO_PEAKS, block_peaks, num_blocks
from densecore.kernels.sampling import Edits, Settings, Workspace, distribution_ref, edit_ref, sample

OFF = Settings(
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
)
NO_EDITS = Edits(np.zeros(1, np.int32), np.zeros(1), np.zeros(1, np.int32))
TOLERANCE = 1e-6


def peaks_of(logits):
    """The peaks of logits (num_rows, n_vocab), as a model leaves them."""
    peaks = np.empty((len(logits), num_blocks(logits.shape[1])), np.int32)
    block_peaks(logits, peaks)
    return peaks


def draw(logits, settings, u, edits=NO_EDITS, n_edits=0):
    """The token that the fast path draws for the random number u, whether peaks are known or not."""
    logits = np.asarray(logits, np.float32)
    without, given = (
        sample(logits, peaks, Workspace.create(len(logits)), settings, edits, n_edits, u)
        for peaks in (NO_PEAKS, peaks_of(logits[None])[0])
    )
    assert without == given
    return given


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
    upper = np.cumsum(probabilities)
    position = {int(token_id): i for i, token_id in enumerate(ids)}
    for u in probes(probabilities):
        token_id = draw(logits, settings, float(u), edits, n_edits)
        assert token_id in position, f"u = {u} draws token {token_id}, which is not kept"
        i = position[token_id]
        assert upper[i] - probabilities[i] - TOLERANCE <= u <= upper[i] + TOLERANCE


def assert_like_twin(logits, settings, edits=NO_EDITS, n_edits=0):
    """The fast path draws from what `distribution_ref` says."""
    scores = edit_ref(np.asarray(logits, np.float32), settings, edits, n_edits)
    assert_draws_from(logits, settings, *distribution_ref(scores, settings), edits, n_edits)
