"""Typical-p, top-n-sigma, XTC and mirostat, against definitions that are written out here token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest

from densecore.config import GenerationConfig
from densecore.kernels.sampling import distribution_ref
from densecore.sampling import Sampler
from densecore.sampling.filters import Filters, candidates
from densecore.sampling.rng import uniform
from tests.sampling.drawing import OFF

PLAIN = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}


def config(**changes):
    return GenerationConfig(**(PLAIN | changes))


def softmax(scores):
    weights = np.exp(scores - np.max(scores))
    return weights / weights.sum()


def typical_tokens(probabilities, mass):
    """transformers' TypicalLogitsWarper, a token at a time: by distance from the entropy, up to the mass."""
    entropy = -sum(p * math.log(p) for p in probabilities)
    order = sorted(range(len(probabilities)), key=lambda i: abs(-math.log(probabilities[i]) - entropy))
    kept, total = [], 0.0
    for token_id in order:
        kept.append(token_id)
        total += probabilities[token_id]
        if total >= mass:
            break
    return set(kept)


def sigma_tokens(logits, n):
    """Those within n standard deviations of the highest logit."""
    mean = sum(logits) / len(logits)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in logits) / len(logits))
    return {i for i, x in enumerate(logits) if x >= max(logits) - n * deviation}


def xtc_tokens(probabilities, threshold):
    """text-generation-webui's XTC: all tokens above the threshold go, but the least probable of them."""
    above = [i for i, p in enumerate(probabilities) if p >= threshold]
    spared = min(above, key=lambda i: probabilities[i], default=None)
    return set(range(len(probabilities))) - (set(above) - {spared})


def logits_of(seed, n_vocab=400, spread=2.0):
    return np.random.default_rng(seed).normal(0, spread, n_vocab).astype(np.float32)


def assert_keeps(filters, logits, u, expected, temperature=1.0):
    """The filters keep these tokens, most probable first, with probabilities in the proportions of the softmax."""
    ids, probabilities = filters.distribution(logits, u)
    assert set(ids.tolist()) == expected
    wanted = softmax(logits[ids].astype(np.float64) / temperature)
    np.testing.assert_allclose(probabilities, wanted, rtol=1e-6)
    assert (np.diff(probabilities) <= 0).all()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.6])
@pytest.mark.parametrize("mass", [0.05, 0.5, 0.9, 0.999])
def test_typical_p(temperature, mass):
    for seed in range(5):
        logits = logits_of(seed)
        filters = Filters.of(config(typical_p=mass, temperature=temperature))
        expected = typical_tokens(softmax(logits.astype(np.float64) / temperature), mass)
        assert_keeps(filters, logits, 1.0, expected, temperature)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("n", [0.3, 1.0, 2.5])
def test_top_n_sigma_does_not_depend_on_temperature(temperature, n):
    for seed in range(5):
        logits = logits_of(seed)
        filters = Filters.of(config(top_n_sigma=n, temperature=temperature))
        assert_keeps(filters, logits, 1.0, sigma_tokens(logits.tolist(), n), temperature)


def test_top_n_sigma_looks_at_allowed_tokens_alone():
    logits = np.array([5, 4, 3, 0, -np.inf, -np.inf], np.float32)
    ids, _ = Filters.of(config(top_n_sigma=1.0)).distribution(logits)
    assert set(ids.tolist()) == sigma_tokens([5, 4, 3, 0], 1.0)


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.1, 0.3, 0.6])
def test_xtc(threshold):
    for seed in range(5):
        logits = logits_of(seed, n_vocab=50)
        filters = Filters.of(config(xtc_probability=0.5, xtc_threshold=threshold))
        probabilities = softmax(logits.astype(np.float64))
        assert_keeps(filters, logits, 0.49, xtc_tokens(probabilities, threshold))
        assert_keeps(filters, logits, 0.5, set(range(50)))


def test_xtc_looks_at_what_the_other_filters_kept():
    """Top-k leaves 0.5, 0.25 and 0.125, renormalised to 4/7, 2/7 and 1/7: two of them reach 0.28."""
    logits = np.log([0.5, 0.25, 0.125, 0.125]).astype(np.float32)
    filters = Filters.of(config(xtc_probability=1.0, xtc_threshold=0.28, top_k=3))
    assert filters.distribution(logits, 0.0)[0].tolist() == [1, 2]


@pytest.mark.parametrize(
    "changes",
    [{}, {"top_k": 7}, {"top_p": 0.8}, {"min_p": 0.05}, {"top_k": 30, "top_p": 0.7, "min_p": 0.1, "temperature": 0.6}],
    ids=str,
)
def test_common_filters_keep_what_the_fast_path_keeps(changes):
    """XTC that never acts leaves exactly what densecore.kernels.sampling draws from."""
    for seed in range(5):
        logits = logits_of(seed)
        ids, probabilities = Filters.of(config(xtc_probability=1e-9, **changes)).distribution(logits)
        expected_ids, expected = distribution_ref(logits, OFF._replace(**(changes)))
        assert ids.tolist() == expected_ids[: len(ids)].tolist()
        np.testing.assert_allclose(probabilities, expected[: len(ids)], rtol=1e-5)
        assert expected[len(ids) :].sum() < 1e-9  # only what is too improbable ever to be drawn is left out


def test_equal_scores_stay_in_order_of_their_ids():
    logits = np.array([1, 2, 2, 0, 2], np.float32)
    assert candidates(logits, 1.0, top_k=2)[0].tolist() == [1, 2]
    assert candidates(logits, 1.0)[0].tolist() == [1, 2, 4, 0, 3]
    assert candidates(logits, 1e-300)[0][:1].tolist() == [1]


def chi_square_limit(degrees):
    """99.9 % quantile (Wilson and Hilferty 1931)."""
    return degrees * (1 - 2 / (9 * degrees) + 3.09 * math.sqrt(2 / (9 * degrees))) ** 3


LOGITS = np.linspace(0, 3, 12).astype(np.float32)
PROBABILITIES = softmax(LOGITS.astype(np.float64))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"typical_p": 0.6}, [typical_tokens(PROBABILITIES, 0.6)]),
        ({"top_n_sigma": 1.3}, [sigma_tokens(LOGITS.tolist(), 1.3)]),
        ({"xtc_probability": 0.4, "xtc_threshold": 0.1}, [set(range(12))] * 3 + [xtc_tokens(PROBABILITIES, 0.1)] * 2),
    ],
    ids=["typical", "sigma", "xtc"],
)
def test_chi_square_of_draws(changes, expected):
    """20,000 draws have the frequencies of the kept tokens, mixed where chance decides what is kept."""
    sampler = Sampler(config(seed=11, **changes), 12)
    observed = np.bincount([sampler.sample(LOGITS) for _ in range(20000)], minlength=12)
    masks = np.array([[float(i in kept) for i in range(12)] for kept in expected])
    mixed = np.mean(masks * PROBABILITIES / (masks * PROBABILITIES).sum(1, keepdims=True), axis=0)
    drawn = mixed > 0
    assert observed[~drawn].sum() == 0
    wanted = 20000 * mixed[drawn]
    assert ((observed[drawn] - wanted) ** 2 / wanted).sum() < chi_square_limit(drawn.sum() - 1)


def mirostat_oracle(logits, mu, u, tau, eta):
    """One step of mirostat 2, token by token; the token and the new mu."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    probabilities = softmax(logits.astype(np.float64))
    kept = [i for i in order if -math.log2(probabilities[i]) <= mu] or order[:1]
    total = sum(probabilities[i] for i in kept)
    running = 0.0
    for token_id in sorted(kept):
        running += probabilities[token_id] / total
        if running > u:
            break
    return token_id, mu - eta * (-math.log2(probabilities[token_id] / total) - tau)


def test_mirostat_like_the_oracle():
    sampler, mu = Sampler(config(mirostat=2, mirostat_tau=3.0, mirostat_eta=0.2, seed=4), 400), 6.0
    for step in range(200):
        logits = logits_of(step)
        expected, mu = mirostat_oracle(logits, mu, uniform(4, step), 3.0, 0.2)
        assert sampler.sample(logits) == expected
        assert sampler._mirostat.mu == pytest.approx(mu, abs=1e-5)


@pytest.mark.parametrize(("tau", "spread"), [(0.0, 3.0), (0.5, 0.01), (6.0, 0.5), (20.0, 0.01)], ids=str)
def test_mirostat_of_few_and_many_candidates(tau, spread):
    """None but the top, some, thousands, or all: more than the histogram leaves to be sorted."""
    logits = np.random.default_rng(6).normal(0, spread, 5000).astype(np.float32)
    sampler, mu = Sampler(config(mirostat=2, mirostat_tau=tau, seed=5), 5000), 2 * tau
    for step in range(10):
        expected, mu = mirostat_oracle(logits, mu, uniform(5, step), tau, 0.1)
        assert sampler.sample(logits) == expected
        assert sampler._mirostat.mu == pytest.approx(mu, abs=1e-5)


@pytest.mark.parametrize("tau", [2.0, 4.0])
def test_mirostat_holds_the_surprise(tau):
    """The mean surprise, in the distribution that was drawn from, settles at tau."""
    sampler = Sampler(config(mirostat=2, mirostat_tau=tau, seed=3), 400)
    logits = logits_of(1)
    mus = []
    for _ in range(1500):
        sampler.sample(logits)
        mus.append(sampler._mirostat.mu)
    assert abs(mus[-1] - mus[500]) / (0.1 * 1000) < 0.1  # mu moves by eta times the deviation from tau


@pytest.mark.parametrize(
    "changes", [{"typical_p": 0.5}, {"top_n_sigma": 0.5}, {"xtc_probability": 1.0}, {"mirostat": 2}]
)
def test_greedy_stays_greedy(changes):
    logits = logits_of(2)
    assert Sampler(config(temperature=0, **changes), 400).sample(logits) == logits.argmax()


@pytest.mark.parametrize("changes", [{"typical_p": 0.5}, {"xtc_probability": 0.5}, {"mirostat": 2}], ids=str)
def test_same_seed_same_tokens_and_logits_stay(changes):
    logits = logits_of(3)
    before = logits.copy()
    first, second = (Sampler(config(seed=8, **changes), 400) for _ in range(2))
    assert [first.sample(logits) for _ in range(30)] == [second.sample(logits) for _ in range(30)]
    np.testing.assert_array_equal(logits, before)
