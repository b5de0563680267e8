"""What the filters keep and how often it is drawn, against definitions that are written out here."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.config import GenerationConfig
from densecore.sampling import Sampler
from tests.sampling.drawing import OFF, assert_draws_from, draw


def softmax(logits):
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def transformers_warpers(logits, temperature, top_k, top_p, min_p):
    """TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper, MinPLogitsWarper, in this order, and softmax.

    As transformers defines them: top-k drops what is below the k-th score; top-p sorts ascending and drops what the
    cumulative probability says is in the last 1 - top_p; min-p drops what is below min_p times the highest.
    """
    scores = logits.astype(np.float64) / temperature
    if top_k:
        scores = np.where(scores < np.sort(scores)[-min(top_k, len(scores))], -np.inf, scores)
    if top_p < 1:
        order = np.argsort(scores)
        dropped = softmax(scores[order]).cumsum() <= 1 - top_p
        dropped[-1] = False
        scores[order[dropped]] = -np.inf
    if min_p:
        probabilities = softmax(scores)
        scores = np.where(probabilities < min_p * probabilities.max(), -np.inf, scores)
    return softmax(scores)


@pytest.mark.parametrize("top_k", [0, 1, 7, 5000])
@pytest.mark.parametrize("top_p", [1.0, 0.93, 0.31])
@pytest.mark.parametrize("min_p", [0.0, 0.04, 0.97])
@pytest.mark.parametrize("temperature", [0.6, 1.7])
def test_keeps_what_transformers_keeps(temperature, top_k, top_p, min_p):
    logits = np.random.default_rng(top_k + 1).normal(0, 2.5, 1500).astype(np.float32)  # no two are equal
    probabilities = transformers_warpers(logits, temperature, top_k, top_p, min_p)
    ids = np.argsort(-logits)[: np.count_nonzero(probabilities)]
    chosen = OFF._replace(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    assert_draws_from(logits, chosen, ids, probabilities[ids])


def kept(logits, **changes):
    """Tokens that can be drawn, found with a fine comb of random numbers, in the order of the draw."""
    drawn = [draw(logits, OFF._replace(**changes), u) for u in np.linspace(0, 1 - 1e-9, 400)]
    return list(dict.fromkeys(drawn))


EQUAL = [1.0] * 10
QUARTERS = np.log([0.5, 0.25, 0.125, 0.125])


@pytest.mark.parametrize(
    ("logits", "changes", "expected"),
    [
        (EQUAL, {}, list(range(10))),
        (EQUAL, {"top_k": 3}, [0, 1, 2]),
        (EQUAL, {"top_p": 0.5}, [0, 1, 2, 3, 4]),
        (EQUAL, {"top_p": 0.501}, [0, 1, 2, 3, 4, 5]),
        (EQUAL, {"top_p": 1e-9}, [0]),
        (EQUAL, {"min_p": 1.0}, list(range(10))),
        (EQUAL, {"top_k": 4, "top_p": 0.5}, [0, 1]),
        (QUARTERS, {"top_p": 0.49}, [0]),
        (QUARTERS, {"top_p": 0.74}, [0, 1]),
        (QUARTERS, {"top_p": 0.76}, [0, 1, 2]),
        (QUARTERS, {"top_k": 2, "top_p": 0.65}, [0]),  # 2/3 of what top-k kept, 1/2 of all
        (QUARTERS, {"min_p": 0.51}, [0]),
        (QUARTERS, {"min_p": 0.49}, [0, 1]),
        (QUARTERS, {"min_p": 1.0}, [0]),
        (QUARTERS, {"top_p": 0.76, "min_p": 0.3}, [0, 1]),
        ([0.0, -0.0, 0.0], {"top_k": 2}, [0, 1]),
        ([-0.0, 0.0], {"top_k": 1}, [0]),
        ([5.0, 500.0, -500.0], {}, [1]),
        ([0.0], {"top_k": 40, "top_p": 0.95, "min_p": 0.1}, [0]),
        ([1.0, 2.0, 3.0], {"top_k": 100}, [0, 1, 2]),  # as without top-k
        ([1.0, 2.0, 3.0], {"min_p": 0.1}, [0, 1, 2]),
        ([1.0, 2.0, 2.0, 3.0, 0.0], {"top_k": 4}, [3, 1, 2, 0]),
        ([1.0, 2.0, 2.0, 3.0], {"top_k": 2}, [3, 1]),
    ],
    ids=str,
)
def test_edges(logits, changes, expected):
    assert kept(logits, **changes) == expected


def test_many_equal_logits():
    assert kept([0.5] * 3000, top_k=4) == [0, 1, 2, 3]
    assert kept([0.5] * 3000, top_p=0.001) == [0, 1, 2]
    assert draw([0.5] * 3000, OFF, 0.5001) == 1500


@pytest.mark.parametrize("changes", [{}, {"top_k": 39990}], ids=str)
def test_top_p_just_below_one(changes):
    """The total of these weights is no float64: rounding must not carry the mass to keep beyond it."""
    logits = [0.0] * 39990 + [-13.0] * 10
    for u in (0.5, np.nextafter(1, 0)):
        assert 0 <= draw(logits, OFF._replace(top_p=np.nextafter(1, 0), **changes), u) < 40000


@pytest.mark.parametrize("changes", [{"top_k": 0}, {"top_k": 12}, {"top_k": 0, "min_p": 0.01}], ids=str)
def test_chi_square_of_draws(changes):
    """20,000 draws have the frequencies of the softmax: 99.9 % quantile of chi square with 11 degrees of freedom."""
    logits = np.linspace(0, 3, 12).astype(np.float32)
    config = GenerationConfig(temperature=0.8, top_p=1.0, repetition_penalty=1.0, seed=5, **changes)
    sampler = Sampler(config, 12)
    observed = np.bincount([sampler.sample(logits) for _ in range(20000)], minlength=12)
    expected = 20000 * softmax(logits.astype(np.float64) / 0.8)
    assert ((observed - expected) ** 2 / expected).sum() < 31.26


def test_chi_square_of_draws_with_top_p():
    """The same for the tokens that top-p keeps, of several blocks; those it rejects at first change no proportions."""
    logits = np.random.default_rng(3).normal(0, 1, 200).astype(np.float32)
    probabilities = softmax(logits.astype(np.float64))
    order = np.argsort(-probabilities)
    kept = order[: 1 + np.searchsorted(np.cumsum(probabilities[order]), 0.3)]
    config = GenerationConfig(temperature=1.0, top_k=0, top_p=0.3, repetition_penalty=1.0, seed=5)
    sampler = Sampler(config, 200)
    observed = np.bincount([sampler.sample(logits) for _ in range(20000)], minlength=200)
    expected = 20000 * probabilities[kept] / probabilities[kept].sum()
    assert observed[kept].sum() == 20000
    degrees = len(kept) - 1
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3  # Wilson and Hilferty 1931
    assert ((observed[kept] - expected) ** 2 / expected).sum() < limit
