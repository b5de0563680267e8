"""Bad words, the end of generation, logits processors and log-probabilities."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.config import GenerationConfig
from densecore.exceptions import InferenceError
from densecore.sampling import Sampler, Vocabulary
from densecore.sampling.logprobs import log_probabilities
from densecore.sampling.restrictions import forbid

LOGITS = np.array([5, 4, 3, 2, 1, 0], np.float32)
END = Vocabulary(eog_ids=frozenset({0, 2}))


def config(**changes):
    return GenerationConfig(**({"temperature": 0, "repetition_penalty": 1.0} | changes))


def draw(n, vocabulary=None, prompt=(), logits=LOGITS, **changes):
    sampler = Sampler(config(**changes), len(logits), prompt, vocabulary=vocabulary)
    return [sampler.sample(logits) for _ in range(n)]


def test_bad_words():
    words = Vocabulary(bad_words=((0,), (1, 1), (1, 2, 1)))
    assert draw(5, words) == [1, 2, 2, 1, 2]
    assert draw(1, words, prompt=[1]) == [2]  # 1 1 is bad
    assert draw(1, words, prompt=[1, 2]) == [2]  # 1 2 1 is bad
    assert draw(1, words, prompt=[3, 2]) == [1]
    assert draw(1, words, prompt=[2]) == [1]  # the beginning is longer than the text


def test_bad_words_leave_other_tokens_their_proportions():
    sampler = Sampler(config(temperature=1.0, top_k=0, top_p=1.0, seed=5), 6, vocabulary=Vocabulary(bad_words=((0,),)))
    observed = np.bincount([sampler.sample(LOGITS) for _ in range(20000)], minlength=6)
    assert observed[0] == 0
    expected = 20000 * np.exp(LOGITS[1:]) / np.exp(LOGITS[1:]).sum()
    assert ((observed[1:] - expected) ** 2 / expected).sum() < 18.47  # 99.9 %, 4 degrees of freedom


def test_forbidding_by_mask_is_an_assignment():
    rng = np.random.default_rng(0)
    logits = np.concatenate([rng.normal(0, 9, 995), [0.0, -0.0, 3e38, -3e38, -np.inf]]).astype(np.float32)
    for share in (0.0, 0.3, 1.0):
        forbidden = rng.random(1000) < share
        changed = logits.copy()
        forbid(changed, forbidden)
        np.testing.assert_array_equal(changed, np.where(forbidden, -np.inf, logits))


@pytest.mark.parametrize("num_prompt", range(62, 67))
def test_the_end_is_forbidden_whatever_the_penalties_remember(num_prompt):
    logits = np.full(200, -1.0, np.float32)
    logits[:3] = 9, 5, 8  # 0 and 2 are ends
    prompt = range(100, 100 + num_prompt)  # with so many different tokens, tables of 64 rows are just full
    assert draw(2, END, prompt, logits, ignore_eos=True, repetition_penalty=1.01) == [1, 1]
    assert draw(2, END, prompt, logits, min_tokens=1, repetition_penalty=1.01) == [1, 0]


def test_ignore_eos():
    assert draw(3, END, ignore_eos=True) == [1, 1, 1]


def test_min_tokens():
    assert draw(4, END, min_tokens=2) == [1, 1, 0, 0]


def test_a_bias_counts_once_the_end_is_allowed():
    assert draw(4, END, min_tokens=2, logit_bias={0: -50.0, 2: 50.0, 1: -3.0}) == [3, 3, 2, 2]


@pytest.mark.parametrize("options", [{"ignore_eos": True}, {"min_tokens": 9}], ids=["ignore_eos", "min_tokens"])
@pytest.mark.parametrize(
    "way", [{}, {"temperature": 1.0}, {"temperature": 1.0, "typical_p": 0.9}], ids=["greedy", "drawn", "numpy"]
)
def test_nothing_left_but_the_end_fails_the_request(options, way):
    logits = np.where([True, False, True, False, False, False], LOGITS, -np.inf).astype(np.float32)
    with pytest.raises(InferenceError, match="all of the 6 logits are -inf"):
        draw(1, END, logits=logits, **options, **way)
    logits[3] = -80
    assert draw(2, END, logits=logits, **options, **way) == [3, 3]


def test_everything_forbidden_fails_the_request():
    with pytest.raises(InferenceError, match="all of the 6 logits are -inf"):
        draw(1, Vocabulary(bad_words=tuple((i,) for i in range(6))))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_is_seen_behind_a_restriction(bad):
    logits = LOGITS.copy()
    logits[0] = bad
    with pytest.raises(InferenceError, match=f"the model computed {bad} as the logit of token 0"):
        draw(1, END, logits=logits, ignore_eos=True)


class TestProcessors:
    def test_in_place_and_returned(self):
        def first(token_ids, logits):
            logits[0] = -np.inf

        def second(token_ids, logits):
            assert logits[0] == -np.inf
            return np.where(np.arange(6) == 1, -np.inf, logits)  # float64

        before = LOGITS.copy()
        assert draw(1, logits_processors=[first, second]) == [2]
        assert draw(1, logits_processors=first) == [1]
        np.testing.assert_array_equal(LOGITS, before)

    def test_sees_prompt_and_output(self):
        seen = []
        draw(3, prompt=[4, 5], logits_processors=[lambda token_ids, logits: seen.append(token_ids)])
        assert seen == [[4, 5], [4, 5, 0], [4, 5, 0, 0]]

    def test_may_do_what_it_likes_to_the_ids(self):
        def spoil(token_ids, logits):
            token_ids.clear()

        assert draw(3, Vocabulary(bad_words=((0, 0),)), logits_processors=[spoil]) == [0, 1, 0]

    @pytest.mark.parametrize(
        ("returned", "said"),
        [
            (lambda: 1 / 0, "failed: ZeroDivisionError"),
            (lambda: "no", "failed: ValueError"),
            (lambda: np.zeros(5), r"returned the shape \(5,\); return an array of the shape \(6,\)"),
            (lambda: np.full(6, np.nan), "gave NaN or inf"),
            (lambda: np.full(6, np.inf), "gave NaN or inf"),
        ],
        ids=["raises", "text", "shape", "nan", "inf"],
    )
    def test_failures_name_the_function(self, returned, said):
        def my_step(token_ids, logits):
            return returned()

        with pytest.raises(InferenceError, match=f"the request: the logits processor .*my_step {said}"):
            draw(1, logits_processors=[my_step])

    def test_restrictions_hold_whatever_it_does(self):
        assert draw(1, END, ignore_eos=True, logits_processors=[lambda ids, logits: np.zeros(6)]) == [1]


class TestLogprobs:
    def test_of_the_unmodified_distribution(self):
        options = {"temperature": 5.0, "top_k": 2, "seed": 1, "logit_bias": {3: 50.0}, "repetition_penalty": 2.0}
        sampler = Sampler(config(logprobs=True, top_logprobs=3, **options), 6, [0])
        drawn = [sampler.sample(LOGITS) for _ in range(5)]
        expected = LOGITS - np.log(np.exp(LOGITS.astype(np.float64)).sum())
        assert [entry.token_id for entry in sampler.logprobs] == drawn
        for entry in sampler.logprobs:
            assert entry.logprob == pytest.approx(expected[entry.token_id], abs=1e-6)
            assert entry.top_ids == (0, 1, 2)
            assert entry.top_logprobs == pytest.approx(expected[:3], abs=1e-6)

    def test_equal_ones_in_order_of_their_ids(self):
        assert log_probabilities(np.array([1, 3, 3, 3], np.float32), 0, 2).top_ids == (1, 2)

    def test_more_than_there_are(self):
        assert log_probabilities(LOGITS, 0, 100).top_ids == (0, 1, 2, 3, 4, 5)

    def test_like_float64_on_a_large_vocabulary(self):
        logits = np.random.default_rng(0).normal(0, 4, 150_000).astype(np.float32)
        exact = logits.astype(np.float64)
        exact -= exact.max() + np.log(np.exp(exact - exact.max()).sum())
        found = log_probabilities(logits, 77, 20)
        assert found.logprob == pytest.approx(exact[77], abs=2e-6)
        assert found.top_ids == tuple(np.argsort(-exact, kind="stable")[:20])

    def test_not_asked_for(self):
        sampler = Sampler(config(), 6)
        sampler.sample(LOGITS)
        assert sampler.logprobs == []
