"""Speculative decoding: the same output with and without, whatever is guessed, and only as long as it pays."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from densecore import DenseCore, GenerationConfig, ModelLoadError
from densecore.engine.gain import FIRST_PAUSE, REFRESH, TRIES, Acceptance, StepTimes
from densecore.engine.lookup import PromptLookup
from densecore.engine.sequence import Status
from densecore.engine.speculation import draw
from densecore.exceptions import InferenceError, InvalidConfigError
from densecore.sampling import Sampler
from tests.conftest import shared_path
from tests.engine.random_requests import MAX_LEN, PLENTY, TIGHT, assert_as_alone, cache_bytes
from tests.engine.sequences import new_scheduler, new_sequence
from tests.gguf_factory import llama_vocabulary, make_model


class TestLookup:
    def test_what_followed_the_last_time(self):
        lookup = PromptLookup()
        assert lookup.propose([1, 2, 3, 4, 5, 9, 1, 2, 3], 3) == [4, 5, 9]
        assert lookup.propose([1, 2, 3], 2) == []

    def test_longer_ends_first_and_repetition(self):
        assert PromptLookup().propose([7, 1, 2, 5, 8, 1, 2, 6, 7, 1, 2], 1) == [5]
        assert PromptLookup().propose([4, 1, 2, 1, 2], 5) == [1, 2, 1, 2, 1]

    def test_a_sequence_that_grows_is_the_same_as_a_whole_one(self):
        rng, token_ids, lookup = random.Random(0), [], PromptLookup()
        for _ in range(200):
            token_ids.append(rng.randrange(4))
            assert lookup.propose(token_ids, 4) == PromptLookup().propose(token_ids, 4)


class TestGain:
    def test_a_draft_costs_what_all_lose(self):
        times = StepTimes()
        assert times.wants_plain(4)
        times.measured(4, 0, 1.0)
        assert not times.wants_plain(4)
        times.measured(4, 2, 1.5)
        assert times.cost(4) == pytest.approx(4 * 0.25)
        for _ in range(REFRESH):
            times.measured(4, 2, 1.5)
        assert times.wants_plain(4)

    def test_rests_while_it_loses_and_tries_again(self):
        acceptance = Acceptance()
        for _ in range(TRIES):
            assert acceptance.wants_draft()
            acceptance.measured(0, 0.2)
        assert not any(acceptance.wants_draft() for _ in range(FIRST_PAUSE))
        for _ in range(3 * TRIES):  # now it wins
            assert acceptance.wants_draft()
            acceptance.measured(2, 0.2)


NUM_DRAWS = 20_000
PROBABILITIES = np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.6, 0.1, 0.2], [0.25, 0.25, 0.3, 0.2], [0.7, 0.1, 0.1, 0.1]])
GUESSES = PROBABILITIES.argmax(axis=1)  # what a greedy draft says after each token


def draw_without_residual(sequence, rows, draft_ids):
    """A wrong guess is not replaced by what was drawn in its place, but by a new draw, which may be the guess again."""
    drawn = draw(sequence, rows, draft_ids)
    if len(drawn) <= len(draft_ids):
        drawn[-1] = sequence.sampler.sample(rows[len(drawn) - 1])
    return drawn


def p_value(method, seed: int) -> float:
    """Of pairs of tokens that speculation draws, against the model's probabilities, by chi-square."""
    sequence = new_sequence()
    config = GenerationConfig(temperature=1, top_p=1, top_k=0, repetition_penalty=1, seed=seed)
    sequence.sampler = Sampler(config, 4)
    logits = np.log(PROBABILITIES).astype(np.float32)
    drawn, counts = [0], Counter()
    while len(drawn) <= 2 * NUM_DRAWS:
        draft = [GUESSES[drawn[-1]]]
        draft.append(GUESSES[draft[0]])
        drawn += method(sequence, logits[[drawn[-1], *draft]], draft)
    for pair in zip(drawn[: 2 * NUM_DRAWS : 2], drawn[1 : 2 * NUM_DRAWS + 1 : 2], strict=True):
        counts[pair] += 1
    return chi_square_p(counts)


def chi_square_p(counts: Counter) -> float:
    """Of transitions: given the first token of a pair, the second one has a row of PROBABILITIES."""
    statistic = 0.0
    for first in range(4):
        total = sum(counts[first, second] for second in range(4))
        for second in range(4):
            expected = total * PROBABILITIES[first, second]
            statistic += (counts[first, second] - expected) ** 2 / expected
    half = statistic / 2  # 4 * 3 = 12 degrees of freedom: the tail is a finite sum, as for all even numbers
    return math.exp(-half) * sum(half**i / math.factorial(i) for i in range(6))


class TestDistribution:
    @pytest.mark.parametrize("seed", range(10))
    def test_that_of_the_model(self, seed):
        assert p_value(draw, seed) > 1e-4

    @pytest.mark.parametrize("seed", range(10))
    def test_not_so_without_the_residual(self, seed):
        assert p_value(draw_without_residual, seed) < 1e-4

    def test_the_same_random_numbers(self):
        rows = np.random.default_rng(0).normal(size=(4, 50)).astype(np.float32)
        config = GenerationConfig(temperature=1, seed=3)
        plain, sequence = Sampler(config, 50), new_sequence()
        expected = [plain.sample(row) for row in rows]
        for right in range(4):
            sequence.sampler = Sampler(config, 50)
            draft = [*expected[:right], *[(token_id + 1) % 50 for token_id in expected[right:3]]]
            assert draw(sequence, rows, draft) == expected[: right + 1]

    def test_an_error_comes_after_what_was_drawn_before(self):
        rows = np.zeros((3, 4), np.float32)
        rows[0, 2], rows[1] = 9, np.nan
        sequence = new_sequence()
        sequence.sampler = Sampler(GenerationConfig(temperature=0), 4)
        first, error = draw(sequence, rows, [2, 1])
        assert first == 2
        assert isinstance(error, InferenceError)


def always(model: DenseCore) -> DenseCore:
    """Speculate, whether it pays or not."""
    model._engine.speculation.adaptive = False
    return model


@pytest.mark.parametrize("tight", [False, True], ids=["plenty", "tight"])
@pytest.mark.parametrize("kind", ["lookup", "draft", "both"])
def test_a_thousand_requests(alone, kind, tight):
    path, requests, expected = alone
    options = TIGHT | {"kv_cache_bytes": cache_bytes(path, MAX_LEN + 8)} if tight else dict(PLENTY)
    if kind != "draft":
        options["speculation"] = "prompt-lookup"
    if kind != "lookup":
        options["draft_model_path"] = path
        if tight:
            options["kv_cache_bytes"] *= 2  # for both caches
    with always(DenseCore(path, **options)) as model:
        metrics = assert_as_alone(model, requests, expected)
    assert metrics["draft_tokens_accepted_total"] > 100
    assert metrics["draft_acceptance_p95"] > 0
    assert metrics["preemptions_total"] >= (100 if tight else 0)


def test_a_model_is_always_right_about_itself():
    path = shared_path("models", "stories260K.gguf")
    options = {"max_tokens": 60, "temperature": 0, "repetition_penalty": 1, "ignore_eos": True}
    with always(DenseCore(path, draft_model_path=path)) as model:
        for prompt in ("Once upon a time", "Once upon a time there was a dog. " * 6):
            usage = model.complete(prompt, **options).usage
            assert usage.draft_tokens == usage.accepted_draft_tokens >= 40
            assert usage.draft_acceptance == 1
        assert model.complete(prompt, **options, speculate=False).usage.draft_tokens == 0


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "seed": 5},
        {"temperature": 0.7, "seed": 6, "mirostat": 2, "logprobs": True},
        {"temperature": 1.0, "seed": 7, "regex": "[a-z ]{5,40}"},
        {"temperature": 0, "stop_sequences": ["the"]},
        {"temperature": 0, "context_shift": True, "repetition_penalty": 1.0, "ignore_eos": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_the_same_result_in_every_way(options):
    path = shared_path("models", "stories260K.gguf")
    prompt = "Once upon a time there was a dog. The dog was big."
    results = []
    for settings in ({}, {"speculation": "prompt-lookup"}, {"draft_model_path": path}):
        with always(DenseCore(path, max_model_len=96, **settings)) as model:
            results.append(model.complete(prompt, max_tokens=150, **options))
    assert results[1].usage.draft_tokens + results[2].usage.draft_tokens > 0
    for field in ("text", "token_ids", "finish_reason", "logprobs"):
        assert getattr(results[0], field) == getattr(results[1], field) == getattr(results[2], field)


def test_switches_itself_off_while_it_loses(tiny_path):
    with DenseCore(tiny_path, draft_model_path=tiny_path, max_num_seqs=1) as model:
        model._engine.speculation.times.cost = lambda num_decoding: 100.0
        usage = model.complete([3, 4], max_tokens=200, temperature=0, ignore_eos=True).usage
    assert 0 < usage.draft_tokens <= 4 * TRIES * 4  # three or four times


@pytest.mark.parametrize(
    ("drawn", "accepted", "tokens"),
    [
        ([5, 6, 7], 2, 3),  # two guesses, and what follows them
        ([5, 9], 1, 2),
        ([9], 0, 1),
        ([5, 2], 2, 2),  # the second guess is the end of the generation: right, and nothing follows
    ],
    ids=["all right", "one right", "none right", "the end was guessed"],
)
def test_accepted_tokens_are_counted(drawn, accepted, tokens):
    scheduler, sequence = new_scheduler(), new_sequence([1, 2, 3], output=8)
    sequence.eog_ids = frozenset({2})
    scheduler.add(sequence)
    scheduler.postprocess(scheduler.schedule(), [[4]])
    sequence.draft_ids = [5, 2 if drawn[-1] == 2 else 6]
    [entry] = batch = scheduler.schedule()
    assert entry.num_accepted(drawn) == accepted
    scheduler.postprocess(batch, [drawn])
    assert (sequence.num_draft_tokens, sequence.num_accepted_draft_tokens) == (2, accepted)
    assert sequence.num_output_tokens == 1 + tokens
    assert (sequence.status is Status.FINISHED) == (drawn[-1] == 2)


def test_another_vocabulary(tiny_path, tmp_path):
    short = make_model(tmp_path / "short.gguf", vocab="gpt2")
    with pytest.raises(ModelLoadError, match=r"short.gguf: the draft model's vocabulary has \d+ tokens"):
        DenseCore(tiny_path, draft_model_path=short)
    vocabulary = llama_vocabulary()
    tokens = list(vocabulary["tokenizer.ggml.tokens"])
    tokens[-1] = "changed"
    other = make_model(tmp_path / "other.gguf", vocab=vocabulary | {"tokenizer.ggml.tokens": tokens})
    with pytest.raises(ModelLoadError, match="has 'changed' as token"):
        DenseCore(tiny_path, draft_model_path=other)


def test_settings(tiny_path):
    with pytest.raises(InvalidConfigError, match="speculation must be prompt-lookup, or None, not 'magic'"):
        DenseCore(tiny_path, speculation="magic")
    with pytest.raises(InvalidConfigError, match="num_speculative_tokens"):
        DenseCore(tiny_path, num_speculative_tokens=0)
