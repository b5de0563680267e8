"""One request's sampler: seeds, penalties, bias, errors."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.config import GenerationConfig
from densecore.exceptions import InferenceError, InvalidConfigError
from densecore.sampling import Sampler

N_VOCAB = 200


def config(**changes):
    """Plain softmax, but for `changes`."""
    plain = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0}
    return GenerationConfig(**(plain | changes))


def random_logits(seed=0, n_vocab=N_VOCAB):
    return np.random.default_rng(seed).normal(0, 2, n_vocab).astype(np.float32)


def draw_many(sampler, n=30, seed=0):
    return [sampler.sample(random_logits(seed + i)) for i in range(n)]


def test_same_seed_same_tokens():
    first, second, other = (draw_many(Sampler(config(seed=seed), N_VOCAB)) for seed in (3, 3, 4))
    assert first == second != other


def test_batch_composition_does_not_matter():
    alone = draw_many(Sampler(config(seed=3), N_VOCAB))
    sampler, neighbour = Sampler(config(seed=3), N_VOCAB), Sampler(config(seed=9, top_k=5), N_VOCAB)
    together = []
    for i in range(30):
        neighbour.sample(random_logits(100 + i))
        together.append(sampler.sample(random_logits(i)))
    assert together == alone


def test_without_seed_each_sampler_draws_its_own():
    first, second = Sampler(config(), N_VOCAB), Sampler(config(), N_VOCAB)
    assert first.seed != second.seed
    assert 0 <= first.seed < 2**64
    assert draw_many(Sampler(config(seed=first.seed), N_VOCAB)) == draw_many(first)


def test_interrupted_request_goes_on_as_if_nothing_happened():
    settings = config(seed=1, repetition_penalty=1.5, frequency_penalty=0.3)
    whole = draw_many(Sampler(settings, N_VOCAB, [5, 6]))
    resumed = Sampler(settings, N_VOCAB, [5, 6])
    for token_id in whole[:10]:
        resumed.accept(token_id)
    assert draw_many(resumed, 20, seed=10) == whole[10:]


def test_greedy_takes_the_highest_and_the_lowest_id_among_equals():
    logits = np.array([1, 3, 3, 2], np.float32)
    assert Sampler(config(temperature=0), 4).sample(logits) == 1
    logits = np.zeros(1000, np.float32)
    logits[[400, 700]] = 9
    assert Sampler(config(temperature=0), 1000).sample(logits) == 400


def test_greedy_honours_penalties_and_bias():
    logits = np.array([4, 3, 2], np.float32)
    sampler = Sampler(config(temperature=0, presence_penalty=1.5), 3)
    assert [sampler.sample(logits) for _ in range(4)] == [0, 1, 0, 0]
    assert Sampler(config(temperature=0, logit_bias={2: 3.0}), 3).sample(logits) == 2


def test_penalties_by_hand():
    """prompt 0, 1; output 1, 2, 2; bias on 3 and 1.

    token 0: 4 / 2 = 2;  token 1: -1 + 0.5 -> -0.5 * 2 - 0.25 - 0.125 = -1.375
    token 2: 3 / 2 - 0.25 - 2 * 0.125 = 1;  token 3: 1 - 2 = -1;  token 4: 0.5
    """
    settings = config(
        repetition_penalty=2.0, presence_penalty=0.25, frequency_penalty=0.125, logit_bias={3: -2.0, 1: 0.5}
    )
    scores = np.array([2, -1.375, 1, -1, 0.5])
    expected = np.exp(scores) / np.exp(scores).sum()
    logits = np.array([4, -1, 3, 1, 0.5], np.float32)
    observed = np.zeros(5)
    for seed in range(4000):
        sampler = Sampler(GenerationConfig(**(vars(settings) | {"seed": seed})), 5, [0, 1])
        for token_id in (1, 2, 2):
            sampler.accept(token_id)
        observed[sampler.sample(logits)] += 1
    assert ((observed - 4000 * expected) ** 2 / (4000 * expected)).sum() < 18.47  # 99.9 %, 4 degrees of freedom


def test_presence_and_frequency_ignore_the_prompt():
    logits = np.array([2, 1], np.float32)
    assert Sampler(config(temperature=0, presence_penalty=5, repetition_penalty=1.01), 2, [0, 0]).sample(logits) == 0


def test_repetition_penalty_sees_the_prompt():
    logits = np.array([2, 1.5], np.float32)
    assert Sampler(config(temperature=0, repetition_penalty=2), 2, [0]).sample(logits) == 1


def test_many_different_tokens_grow_the_table():
    sampler = Sampler(config(temperature=0, presence_penalty=50), N_VOCAB)
    logits = np.linspace(1, 0, N_VOCAB, dtype=np.float32)
    assert [sampler.sample(logits) for _ in range(N_VOCAB)] == list(range(N_VOCAB))


@pytest.mark.parametrize(("bias", "expected"), [(100.0, 1), (-100.0, 0)])
def test_strongest_bias_decides(bias, expected):
    sampler = Sampler(config(logit_bias={1: bias}), 2)
    assert {sampler.sample(np.array([0, 0], np.float32)) for _ in range(50)} == {expected}


def test_bias_does_not_lift_a_mask():
    sampler = Sampler(config(logit_bias={1: 100.0}), 2)
    assert sampler.sample(np.array([0, -np.inf], np.float32)) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_logits_of_any_layout(dtype):
    logits = np.stack([random_logits(1), random_logits(2)], axis=1).astype(dtype)[:, 0]
    logits.flags.writeable = False
    expected = Sampler(config(seed=1), N_VOCAB).sample(logits.astype(np.float32))
    assert Sampler(config(seed=1), N_VOCAB).sample(logits) == expected


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_not_finite_logits_fail_the_request(bad, temperature):
    sampler = Sampler(config(temperature=temperature), 5, name="sequence 7")
    with pytest.raises(InferenceError, match=rf"sequence 7: .*{bad} as the logit of token 3"):
        sampler.sample(np.array([0, 0, -np.inf, bad, 0], np.float32))
    assert sampler.sample(np.array([-np.inf, 0, -np.inf, -np.inf, -np.inf], np.float32)) == 1


def test_all_masked_fails_the_request():
    with pytest.raises(InferenceError, match="the request: all of the 3 logits are -inf"):
        Sampler(config(), 3).sample(np.full(3, -np.inf, np.float32))


def test_wrong_shape():
    with pytest.raises(InferenceError, match=r"\(4,\), not \(3,\)"):
        Sampler(config(), 3).sample(np.zeros(4, np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((config(logit_bias={N_VOCAB: 1.0}), N_VOCAB), "logit_bias has the token id 200, .* 0 to 199"),
        ((config(repetition_penalty=1.1), N_VOCAB, [3, -1]), "prompt_ids has the token id -1, .* 0 to 199"),
        ((config(), 0), "n_vocab must be 1 or more"),
    ],
    ids=["bias", "prompt", "n_vocab"],
)
def test_ids_beyond_the_vocabulary(arguments, message):
    with pytest.raises(InvalidConfigError, match=message):
        Sampler(*arguments)
