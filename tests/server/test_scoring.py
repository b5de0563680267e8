"""Echo and log-probabilities, as lm-evaluation-harness asks for them, against logits that llama.cpp recorded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from densecore import DenseCore, InvalidConfigError
from tests.conftest import shared_path

from .conftest import Running, running

HARNESS = {"model": "stories", "temperature": 0, "echo": True, "logprobs": 1, "seed": 1234}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running({"stories": shared_path("models", "stories260K.gguf")}) as found:
        yield found


@pytest.fixture(scope="module")
def recorded() -> tuple[list[int], np.ndarray]:
    """Ids of a text, and log-probabilities (num_tokens, n_vocab) after each of them."""
    data = np.load(shared_path("golden", "stories260K.npz"))
    logits = data["logits"].astype(np.float64)
    return data["ids"].tolist(), logits - np.log(np.exp(logits).sum(-1, keepdims=True))


class TestEcho:
    @pytest.mark.parametrize("max_tokens", [0, 1])
    def test_as_the_harness_asks(self, server, recorded, max_tokens):
        ids, expected = recorded
        answer = server.openai().completions.create(prompt=[ids, ids[:5]], max_tokens=max_tokens, **HARNESS)
        for choice, tokens in zip(answer.choices, (ids, ids[:5]), strict=True):
            found = choice.logprobs
            count = len(tokens)
            sizes = {len(found.tokens), len(found.token_logprobs), len(found.top_logprobs), len(found.text_offset)}
            assert sizes == {count + max_tokens}
            assert found.token_logprobs[0] is None
            assert found.top_logprobs[0] is None
            wanted = [expected[i, token] for i, token in enumerate(tokens[1:])]
            np.testing.assert_allclose(found.token_logprobs[1:count], wanted, atol=2e-2)
            for i, top in enumerate(found.top_logprobs[1:count]):
                best = max(top, key=top.__getitem__)
                is_greedy = best == found.tokens[i + 1]
                assert is_greedy == (expected[i].argmax() == tokens[i + 1])
                assert 1 <= len(top) <= 2
        assert answer.usage.prompt_tokens == len(ids) + 5
        assert answer.usage.completion_tokens == 2 * max_tokens

    def test_the_prompt_is_computed_once(self, server):
        prompt = "One day a bird sat in a tall tree and sang to the sun"
        count = len(server.model.prompt_tokens(prompt))
        before = server.model.get_metrics()["prompt_tokens_cached_total"]
        client = server.openai().completions
        answer = client.create(prompt=prompt, max_tokens=1, **HARNESS)
        assert server.model.get_metrics()["prompt_tokens_cached_total"] - before == count - 1
        assert answer.usage.prompt_tokens_details.cached_tokens == 0
        salted = client.create(prompt=prompt, max_tokens=1, extra_body={"cache_salt": "x"}, **HARNESS)
        assert server.model.get_metrics()["prompt_tokens_cached_total"] - before == 2 * (count - 1)
        alone = client.create(prompt=prompt, max_tokens=1, **(HARNESS | {"echo": False}))
        for found in (answer, salted):
            assert found.choices[0].text == prompt + alone.choices[0].text
            assert found.choices[0].logprobs.token_logprobs[-1] == alone.choices[0].logprobs.token_logprobs[0]

    def test_offsets_say_where_tokens_are_in_the_text(self, server):
        prompt = "Once upon a time, Lily"
        choice = server.openai().completions.create(prompt=prompt, max_tokens=6, **HARNESS).choices[0]
        found = choice.logprobs
        assert choice.text.startswith(prompt)
        ends = [*found.text_offset[1:], len(choice.text)]
        pieces = [choice.text[start:end] for start, end in zip(found.text_offset, ends, strict=True)]
        assert "".join(pieces) == choice.text
        assert pieces[1:] == [found.tokens[1].lstrip(), *found.tokens[2:]]  # the first is BOS

    def test_stream_is_the_same(self, server):
        options = HARNESS | {"prompt": "Once upon", "max_tokens": 8, "logprobs": 2}
        whole = server.openai().completions.create(**options).choices[0]
        text, tokens, logprobs, offsets = "", [], [], []
        for chunk in server.openai().completions.create(stream=True, **options):
            text += chunk.choices[0].text
            if chunk.choices[0].logprobs:
                tokens += chunk.choices[0].logprobs.tokens
                logprobs += chunk.choices[0].logprobs.token_logprobs
                offsets += chunk.choices[0].logprobs.text_offset
        assert text == whole.text
        assert tokens == whole.logprobs.tokens
        assert logprobs == whole.logprobs.token_logprobs
        assert offsets == whole.logprobs.text_offset

    def test_echo_without_logprobs(self, server):
        choice = server.openai().completions.create(model="stories", prompt="Once", max_tokens=0, echo=True).choices[0]
        assert (choice.text, choice.logprobs, choice.finish_reason) == ("Once", None, "length")
        chunks = list(
            server.openai().completions.create(model="stories", prompt="Once", max_tokens=0, echo=True, stream=True)
        )
        assert [chunk.choices[0].text for chunk in chunks] == ["Once"]

    def test_without_echo_offsets_begin_behind_the_prompt(self, server):
        choice = (
            server.openai()
            .completions.create(model="stories", prompt="Once", max_tokens=3, temperature=0, logprobs=0)
            .choices[0]
        )
        assert choice.logprobs.text_offset[0] == 4
        assert len(choice.logprobs.tokens) == 3

    def test_the_whole_context_can_be_scored(self, server):
        length = server.model.max_model_len
        answer = server.openai().completions.create(prompt=[5] * length, max_tokens=0, **HARNESS)
        assert len(answer.choices[0].logprobs.tokens) == length
        refused = server.post("/v1/completions", prompt=[5] * (length + 1), max_tokens=0, **HARNESS)
        assert refused.json()["error"]["code"] == "context_length_exceeded"


class TestScore:
    def test_is_forward_in_other_words(self):
        with DenseCore(shared_path("models", "stories260K.gguf"), max_num_batched_tokens=16) as model:
            ids = [1, *range(300, 400)]
            logits = model.forward(ids).astype(np.float64)
            expected = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            scores = model.score(ids, 3)
            assert scores[0] is None
            assert [score.token_id for score in scores[1:]] == ids[1:]
            for row, score in zip(expected, scores[1:], strict=False):
                assert abs(score.logprob - row[score.token_id]) < 1e-5
                assert [top.token_id for top in score.top_logprobs] == np.argsort(-row, kind="stable")[:3].tolist()
            assert model.score("Once")[0] is None
            assert model.score([7]) == [None]
            before = model.get_metrics()["kv_cache_blocks_cached"]
            model.score(ids)
            assert model.get_metrics()["kv_cache_blocks_cached"] == before
            for wrong in ([], [10**6], [5] * 1000):
                with pytest.raises(InvalidConfigError):
                    model.score(wrong)
            with pytest.raises(InvalidConfigError, match="top_logprobs"):
                model.score(ids, 1000)
