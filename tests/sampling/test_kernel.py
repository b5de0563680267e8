"""The fast path of sampling against its readable twins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from densecore.kernels.block_masses import block_masses, halvings_per_logit
from densecore.kernels.peaks import BLOCK, block_peaks
from densecore.kernels.sampling import (
    ALL_MASKED,
    NOT_FINITE,
    NOTHING_KNOWN,
    Edits,
    Workspace,
    distribution_ref,
    edit_ref,
    sample,
    sample_ref,
)
from densecore.kernels.sampling_order import INF_KEY
from tests.sampling.drawing import NO_EDITS, OFF, TOLERANCE, assert_like_twin, draw, peaks_of

finite = st.floats(-30, 30, width=32)
logit = st.one_of(finite, st.integers(-3, 3).map(float), st.just(-np.inf), st.just(-0.0))
setting = st.builds(
    OFF._replace,
    temperature=st.sampled_from([0.0, 0.05, 0.8, 1.0, 3.0]),
    top_k=st.sampled_from([0, 1, 2, 5, 40, 1000]),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 0.999)),
    min_p=st.one_of(st.just(0.0), st.floats(0.001, 0.9)),
    repetition_penalty=st.sampled_from([1.0, 1.1, 0.5]),
    presence_penalty=st.sampled_from([0.0, 0.7]),
    frequency_penalty=st.sampled_from([0.0, -0.3]),
    typical_p=st.just(1.0),
    max_surprise=st.sampled_from([np.inf, np.inf, np.inf, -1.0, 0.5, 4.0, 9.0]),
)


def is_borderline(scores, chosen):
    """Whether rounding may decide which tokens top-p or min-p keep."""
    unfiltered = chosen._replace(top_p=1.0, min_p=0.0, max_surprise=np.inf)
    _, probabilities = distribution_ref(scores, unfiltered)
    gaps = [1.0]
    if chosen.max_surprise < np.inf:
        gaps.extend(distribution_ref(scores, unfiltered._replace(top_k=0))[1] - 2.0**-chosen.max_surprise)
    if chosen.top_p < 1:
        gaps.extend(np.cumsum(probabilities) - chosen.top_p)
    if chosen.min_p > 0:
        gaps.extend(probabilities / probabilities[0] - chosen.min_p)
    return np.abs(gaps).min() < 10 * TOLERANCE


@settings(max_examples=300, deadline=None)
@given(logits=st.lists(logit, min_size=1, max_size=300), chosen=setting, data=st.data())
def test_like_twin_for_any_logits(logits, chosen, data):
    logits = np.array(logits, np.float32)
    assume((logits > -np.inf).any())
    n_edits = data.draw(st.integers(0, min(5, len(logits))))
    edits = Edits(
        np.arange(len(logits), dtype=np.int32)[::-1].copy(),
        np.linspace(-3, 3, len(logits)),
        np.arange(len(logits), dtype=np.int32) % 4 - 1,
    )
    scores = edit_ref(logits, chosen, edits, n_edits)
    assume(chosen.temperature == 0 or not is_borderline(scores, chosen))
    assert_like_twin(logits, chosen, edits, n_edits)


@settings(max_examples=100, deadline=None)
@given(
    logits=st.lists(logit, min_size=1, max_size=300),
    mass=st.floats(0.01, 0.999),
    temperature=st.sampled_from([0.05, 0.8, 3.0]),
)
def test_typical_p_like_twin_for_any_logits(logits, mass, temperature):
    logits, chosen = np.array(logits, np.float32), OFF._replace(temperature=temperature, typical_p=mass)
    assume((logits > -np.inf).any())
    ids, probabilities = distribution_ref(logits, chosen._replace(typical_p=1.0))
    distances = surprises_from_mean(probabilities)
    order = np.argsort(distances, kind="stable")
    assume(np.abs(np.cumsum(probabilities[order]) - mass).min() > 10 * TOLERANCE)
    unequal = np.diff(distances[order])[logits[ids[order[1:]]] != logits[ids[order[:-1]]]]
    assume(unequal.min(initial=1) > 1e-4)  # which of two goes first must not be decided by rounding
    assert_like_twin(logits, chosen)


def surprises_from_mean(probabilities):
    """How far each token's surprise is from the mean."""
    surprises = -np.log(np.maximum(probabilities, 1e-300))
    return np.abs(surprises - (probabilities * surprises).sum())


@pytest.mark.parametrize("n_vocab", [1, BLOCK - 1, BLOCK, BLOCK + 1, 5000, 40000])
@pytest.mark.parametrize("spread", [0.01, 1, 4, 20])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"top_k": 40},
        {"top_k": 3000},
        {"top_p": 0.95},
        {"top_p": 0.1},
        {"min_p": 0.05},
        {"min_p": 0.002},
        {"top_k": 40, "top_p": 0.95, "min_p": 0.02},
        {"top_p": 0.9, "min_p": 0.01},
        {"max_surprise": 9.0},
        {"typical_p": 0.95},
        {"typical_p": 0.3},
        {"temperature": 0.0},
    ],
    ids=lambda changes: "+".join(f"{name}={value}" for name, value in changes.items()) or "plain",
)
def test_like_twin_for_random_logits(n_vocab, spread, changes):
    logits = np.random.default_rng(n_vocab).normal(5, spread, n_vocab)
    assert_like_twin(logits, OFF._replace(temperature=0.8)._replace(**changes))


@pytest.mark.parametrize("spread", [0.5, 3])
@pytest.mark.parametrize(
    "changes",
    [
        {"top_k": 40, "top_p": 0.95},
        *({name: mass} for name in ("top_p", "typical_p") for mass in (0.95, 0.3, 0.01)),
        {"min_p": 0.05},
        {},
    ],
    ids=str,
)
def test_same_token_as_twin_for_same_random_number(changes, spread):
    """Also those of draws that top-p rejects, once or as often as it may."""
    rng = np.random.default_rng(7)
    logits = rng.normal(0, spread, 20000).astype(np.float32)
    work, chosen = Workspace.create(len(logits)), OFF._replace(temperature=0.8)._replace(**changes)
    for u in rng.random(50):
        arguments = logits, NOTHING_KNOWN, work, chosen, NO_EDITS, 0, u
        assert sample(*arguments) == sample_ref(*arguments)


@pytest.mark.parametrize("temperature", [1e-30, 0.05, 0.8, 1e6])
def test_block_masses_like_twin(temperature):
    """Also those of the last block, which is shorter, of what is masked; rows that want none keep what is there."""
    rng = np.random.default_rng(12)
    logits = rng.normal(-3, 2, (6, 3 * BLOCK + 5)).astype(np.float32)
    logits[1, ::2] = -np.inf
    logits[2, BLOCK : 2 * BLOCK] = -np.inf
    logits[3] = -0.0
    logits[4, BLOCK + 1] = np.nan
    scales = np.full(6, halvings_per_logit(temperature), np.float32)
    scales[5] = 0
    compiled, by_twin = np.full((6, 4), -7, np.float32), np.full((6, 4), -7, np.float32)
    for operation, masses in ((block_masses, compiled), (block_masses.twin, by_twin)):
        operation(logits, peaks_of(logits), scales, masses)
    compiled[4, 1] = by_twin[4, 1] = 0  # not defined
    np.testing.assert_allclose(compiled, by_twin, rtol=1e-5)
    assert compiled[2, 1] == 0
    assert (compiled[5] == -7).all()
    assert (compiled[0] >= 1).all()


@pytest.mark.parametrize("changes", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}, {"temperature": 0.0}], ids=str)
def test_logits_are_not_modified(changes):
    logits = np.random.default_rng(9).normal(0, 1, 500).astype(np.float32)
    before = logits.copy()
    edits = Edits(np.array([3], np.int32), np.array([5.0]), np.array([2], np.int32))
    sample(logits, NOTHING_KNOWN, Workspace.create(500), OFF._replace(repetition_penalty=2.0, **changes), edits, 1, 0.3)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf], ids=["nan", "negative nan", "inf"])
@pytest.mark.parametrize("position", [0, 130, 299])
def test_not_finite(bad, position):
    logits = np.zeros(300, np.float32)
    logits[position] = bad
    for temperature in (0.0, 1.0):
        chosen = OFF._replace(temperature=temperature)
        assert draw(logits, chosen, 0.5) == NOT_FINITE
        assert sample_ref(logits, NOTHING_KNOWN, Workspace.create(300), chosen, NO_EDITS, 0, 0.5) == NOT_FINITE


@pytest.mark.parametrize(
    "changes", [{}, {"top_k": 40, "top_p": 0.95}, {"top_p": 0.9}, {"min_p": 0.05}, {"temperature": 0.0}], ids=str
)
def test_a_bias_of_minus_infinity_forbids(changes):
    """With penalties as well, and where the raw logit is masked already."""
    logits = np.random.default_rng(5).normal(0, 3, 500).astype(np.float32)
    ids = np.argsort(-logits)[:6].astype(np.int32)
    logits[ids[5]] = -np.inf
    bias = np.array([-np.inf, -np.inf, 0.0, 2.0, -np.inf, -np.inf])
    edits = Edits(ids, bias, np.array([-1, 2, 1, -1, 0, -1], np.int32))
    chosen = OFF._replace(repetition_penalty=1.3, presence_penalty=0.5, **changes)
    assert_like_twin(logits, chosen, edits, 6)
    assert {draw(logits, chosen, u, edits, 6) for u in np.linspace(0, 1, 50, endpoint=False)}.isdisjoint(ids[bias < 0])
    everything = Edits(np.arange(500, dtype=np.int32), np.full(500, -np.inf), np.full(500, -1, np.int32))
    assert draw(logits, chosen, 0.5, everything, 500) == ALL_MASKED


def test_all_masked():
    logits = np.full(300, -np.inf, np.float32)
    assert draw(logits, OFF, 0.5) == ALL_MASKED
    assert sample_ref(logits, NOTHING_KNOWN, Workspace.create(300), OFF, NO_EDITS, 0, 0.5) == ALL_MASKED


@pytest.mark.parametrize("changes", [{}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
def test_masked_tokens_are_never_drawn(changes):
    logits = np.full(5000, -np.inf, np.float32)
    logits[[17, 4000]] = 1.0, 2.0
    assert {draw(logits, OFF._replace(**changes), u) for u in np.linspace(0, 0.999999, 50)} == {17, 4000}


@pytest.mark.parametrize("temperature", [1e-300, 1e-30, 1e-6, 100.0])
@pytest.mark.parametrize("changes", [{}, {"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.5}, {"typical_p": 0.9}], ids=str)
def test_extreme_temperatures_and_logits(temperature, changes):
    big = float(np.finfo(np.float32).max)
    logits = [-big, 3.0, big, big, -np.inf, 0.0]
    drawn = {draw(logits, OFF._replace(temperature=temperature)._replace(**changes), u) for u in (0.0, 0.2, 0.8)}
    assert drawn == {2, 3}


def test_penalties_keep_scores_finite():
    big = float(np.finfo(np.float32).max)
    edits = Edits(np.array([0, 1], np.int32), np.zeros(2), np.ones(2, np.int32))
    logits = [big, -big, 0.0]
    for chosen in (OFF._replace(repetition_penalty=1e-9), OFF._replace(repetition_penalty=100.0)):
        assert draw(logits, chosen, 0.5, edits, 2) == 0


@pytest.mark.parametrize("changes", [{"top_p": 0.02}, {"top_p": 0.5}, {"top_p": 0.05, "min_p": 0.01}], ids=str)
def test_a_sample_of_the_vocabulary_that_misleads(changes):
    """Most of the mass is in blocks that the guess of how it is spread does not see."""
    logits = np.full(100 * BLOCK, -20.0)
    logits[5] = 8.0  # in the first block, which is seen
    logits[BLOCK : 2 * BLOCK] = np.linspace(3, 5, BLOCK)
    logits[7 * BLOCK + 3 :: 2 * BLOCK] = 4.0
    assert_like_twin(logits, OFF._replace(**changes))


def test_peaks_like_twin():
    """Also those of the last block, which is shorter, of what is masked, and of zeros of both signs."""
    rng = np.random.default_rng(11)
    logits = rng.normal(-3, 2, (7, 3 * BLOCK + 5)).astype(np.float32)
    logits[1, ::2] = -np.inf
    logits[2, BLOCK : 2 * BLOCK] = -np.inf
    logits[3] = -0.0
    logits[4, -1], logits[4, 0], logits[4, BLOCK] = np.nan, -np.nan, np.inf
    by_twin = np.empty((7, 4), np.int32)
    block_peaks.twin(logits, by_twin)
    np.testing.assert_array_equal(peaks_of(logits), by_twin)
    assert (by_twin[4] == INF_KEY).tolist() == [True, True, False, True]


def test_peaks_of_no_rows():
    assert peaks_of(np.empty((0, 300), np.float32)).shape == (0, 5)
