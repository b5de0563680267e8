"""Requests beside each other: none depends on another's settings or failure, and a seed gives one text in any batch."""

from __future__ import annotations

import queue

import numpy as np
import pytest

from densecore import DenseCore, GenerationConfig
from densecore.engine.sequence import TextDelta
from densecore.exceptions import InferenceError, InvalidConfigError
from densecore.sampling.constraint import Constraint
from tests.engine.schemas import BOUNDED
from tests.gguf_factory import make_model

MAX_TOKENS = 30
REQUESTS = [
    {"temperature": 0},
    {"temperature": 1.2, "seed": 1},
    {"seed": 2, "json_schema": BOUNDED["tool call"]},
    {"seed": 3, "typical_p": 0.7, "dry_multiplier": 0.8},
    {"seed": 4, "mirostat": 2},
    {"seed": 5, "xtc_probability": 0.5, "top_n_sigma": 2.0},
    {"seed": 6, "bad_words": ["e", "the"], "min_tokens": 20, "logprobs": True, "top_logprobs": 3},
]


def boom(token_ids, logits):
    if len(token_ids) > 8:
        raise RuntimeError("boom")


def nan(token_ids, logits):
    logits[3] = np.nan


def submit(model, options, index):
    return model.stream(f"request {index}", max_tokens=MAX_TOKENS, **options)


def results(streams):
    for stream in streams:
        for _ in stream:
            pass
    return [(stream.result.token_ids, stream.result.text, stream.result.logprobs) for stream in streams]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The embedding of token 7 is NaN."""
    folder = tmp_path_factory.mktemp("isolation")
    with DenseCore(make_model(folder / "m.gguf", n_layers=1)) as plain:
        n_vocab = plain.tokenizer.n_vocab
    weights = np.random.default_rng(0).standard_normal((n_vocab, 64)).astype(np.float32)
    weights[7] = np.nan
    output = np.random.default_rng(1).standard_normal((n_vocab, 64)).astype(np.float32)
    overrides = {"token_embd.weight": weights, "output.weight": output}
    with DenseCore(make_model(folder / "m.gguf", n_layers=1, tensor_overrides=overrides)) as model:
        yield model


@pytest.fixture(scope="module")
def alone(model):
    """Each request by itself, where none draws the poisoned token."""
    return [results([submit(model, options, index)])[0] for index, options in enumerate(REQUESTS)]


def test_in_one_batch_as_alone(model, alone):
    assert results([submit(model, options, index) for index, options in enumerate(REQUESTS)]) == alone
    backwards = [submit(model, options, index) for index, options in reversed(list(enumerate(REQUESTS)))]
    assert results(backwards[::-1]) == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"logits_processors": [boom]}, r"the logits processor boom failed: RuntimeError\('boom'\)"),
        ({"logits_processors": [nan]}, "the logits processor nan gave NaN or inf"),
        ({"json_mode": True, "prompt": [5, 7]}, "the model computed nan as the logit"),
        ({"mirostat": 2, "prompt": [5, 7]}, "the model computed nan as the logit"),
        ({"prompt": [5, 7], "logprobs": True}, "the model computed nan as the logit"),
    ],
    ids=["raises", "nan", "NaN under a grammar", "NaN in mirostat", "NaN with logprobs"],
)
def test_a_failing_request_leaves_the_others_unchanged(model, alone, options, message):
    options = {"seed": 9} | options
    prompt = options.pop("prompt", "x")
    before = [submit(model, each, index) for index, each in list(enumerate(REQUESTS))[:3]]
    failing = model.stream(prompt, max_tokens=MAX_TOKENS, **options)
    after = [submit(model, each, index) for index, each in list(enumerate(REQUESTS))[3:]]
    with pytest.raises(InferenceError, match=message):
        list(failing)
    assert results(before + after) == alone
    metrics = model.get_metrics()
    assert metrics["kv_cache_blocks_free"] == metrics["kv_cache_blocks_total"]


def test_a_grammar_that_fails_on_the_way_fails_alone(model, alone, monkeypatch):
    accept, seen = Constraint.accept, []

    def fail_at_fifth(self, token_id):
        seen.append(self)
        if seen.count(seen[0]) == 5 and self is seen[0]:
            raise InferenceError("the grammar cannot go on: too complex")
        accept(self, token_id)

    monkeypatch.setattr(Constraint, "accept", fail_at_fifth)
    failing = model.stream("x", max_tokens=MAX_TOKENS, regex="[ab]{20}")
    others = [submit(model, options, index) for index, options in enumerate(REQUESTS)]
    with pytest.raises(InferenceError, match="too complex"):
        list(failing)
    assert results(others) == alone


class TestAnswers:
    def test_answer_i_is_that_of_seed_plus_i(self, model):
        answers = model.complete_n("ab", 4, seed=10, temperature=1.0, max_tokens=12)
        single = [model.complete("ab", seed=10 + i, temperature=1.0, max_tokens=12) for i in range(4)]
        assert [answer.token_ids for answer in answers] == [answer.token_ids for answer in single]
        assert len({tuple(answer.token_ids) for answer in answers}) > 1

    def test_without_a_seed_they_differ(self, model):
        answers = model.complete_n(
            "ab", 3, temperature=2.0, max_tokens=12, logit_bias={7: -100}
        )  # whose embedding is NaN
        assert len({tuple(answer.token_ids) for answer in answers}) == 3

    def test_the_last_seed_is_followed_by_the_first(self, model):
        answers = model.complete_n("ab", 2, seed=2**64 - 1, max_tokens=6)
        assert answers[1].token_ids == model.complete("ab", seed=0, max_tokens=6).token_ids

    @pytest.mark.parametrize("n", [0, 129, 1.5, True])
    def test_number_of_answers(self, model, n):
        with pytest.raises(InvalidConfigError, match="n must be an integer from 1 to 128"):
            model.complete_n("ab", n)

    def test_where_one_fails_all_end(self, model):
        with pytest.raises(InferenceError):
            model.complete_n("ab", 3, logits_processors=[boom], max_tokens=200)


class TestLogprobs:
    def test_are_those_of_the_model(self, model):
        prompt = model.tokenize("ab")
        result = model.complete(
            prompt, seed=1, temperature=1.5, max_tokens=10, logprobs=True, top_logprobs=4, logit_bias={2: -100}
        )
        ids = result.token_ids
        logits = model.forward(prompt + ids)[len(prompt) - 1 : -1].astype(np.float64)
        expected = logits - logits.max(1, keepdims=True)
        expected -= np.log(np.exp(expected).sum(1, keepdims=True))
        assert [entry.token_id for entry in result.logprobs] == ids
        for entry, row in zip(result.logprobs, expected, strict=True):
            assert entry.logprob == pytest.approx(row[entry.token_id], abs=1e-5)
            assert [top.token_id for top in entry.top_logprobs] == np.argsort(-row, kind="stable")[:4].tolist()
            assert entry.top_logprobs[0].logprob == pytest.approx(row.max(), abs=1e-5)
            assert entry.token.encode("utf-8", "replace") == entry.bytes or b"\xef\xbf\xbd" in entry.token.encode()

    def test_of_an_answer_spell_its_text(self, model):
        result = model.complete("ab", seed=2, temperature=1.0, max_tokens=20, logprobs=True)
        assert b"".join(entry.bytes for entry in result.logprobs).decode("utf-8", "replace") == result.text

    def test_deltas_carry_them(self, model):
        """Each once, in order, with the text that became certain; what is left comes with the last event."""
        events = queue.SimpleQueue()
        config = GenerationConfig(max_tokens=15, seed=3, logprobs=True)
        model._engine.submit(model.tokenize("ab"), config, events.put)
        sent = []
        while isinstance(event := events.get(timeout=20), TextDelta):
            assert event.logprobs or sent
            sent.extend(event.logprobs)
        assert tuple(sent) == event.logprobs[: len(sent)]
        assert [entry.token_id for entry in event.logprobs] == list(event.token_ids)

    def test_are_none_unless_asked_for(self, model):
        assert model.complete("ab", max_tokens=2).logprobs is None
        with pytest.raises(InvalidConfigError, match="top_logprobs needs logprobs=True"):
            model.complete("ab", top_logprobs=2)
        with pytest.raises(InvalidConfigError, match="top_logprobs must be an integer from 0 to 100"):
            model.complete("ab", logprobs=True, top_logprobs=101)


class TestBadWords:
    def test_a_text_is_meant_with_and_without_a_space(self, model):
        words = model._engine.samplers._bad_words(GenerationConfig(bad_words=["the", [5, 6], " the"]))
        texts = [b"".join(map(model.tokenizer.token_bytes, ids)) for ids in words]
        assert texts[:2] == [b"the", b" the"]
        assert words[2] == (5, 6)
        assert len(words) == 3

    def test_ids_beyond_the_vocabulary(self, model):
        with pytest.raises(InvalidConfigError, match="bad_words has the token id 999999, but the vocabulary's ids are"):
            model.generate("ab", bad_words=[[5, 999999]])

    def test_greedy_takes_the_next_best(self, model):
        options = {"temperature": 0, "max_tokens": 1}
        first = model.complete("ab", **options).token_ids
        assert model.complete("ab", bad_words=[first], **options).token_ids != first
