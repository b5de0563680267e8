"""Contexts at their limit: what fits is said, and endless output forgets its beginning."""

from __future__ import annotations

import pytest

from densecore import DenseCore
from densecore.engine.sequence import KEPT_TOKENS
from densecore.exceptions import InvalidConfigError
from tests.engine.sequences import new_sequence
from tests.engine.waiting import wait_until_idle

GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "logit_bias": {2: -100}}


class TestShift:
    def test_what_is_kept(self):
        sequence = new_sequence([*range(100)], max_len=99)
        sequence.shift_context()
        assert sequence.token_ids == [0, 1, 2, 3, *range(52, 100)]

    def test_output_goes_on_as_of_the_shorter_context(self, tiny):
        prompt = [5 + i % 50 for i in range(250)]
        result = tiny.complete(prompt, max_tokens=300, context_shift=True, **GREEDY)
        assert len(result.token_ids) == 300
        assert result.finish_reason == "length"
        assert result.usage.prompt_tokens == 250
        context = prompt + result.token_ids[:7]  # the first that is too long for 256
        context = context[:KEPT_TOKENS] + context[KEPT_TOKENS + 126 :]
        assert tiny.complete(context, max_tokens=100, **GREEDY).token_ids == result.token_ids[7:107]
        wait_until_idle(tiny)

    def test_beside_others(self, tiny_path):
        prompts = [[5 + i % (10 + n) for i in range(200 + n)] for n in range(6)]
        options = {"max_tokens": 150, "context_shift": True, **GREEDY}
        with DenseCore(tiny_path, prefix_caching=False) as model:
            alone = [model.complete(prompt, **options).token_ids for prompt in prompts]
        with DenseCore(tiny_path, kv_cache_bytes=800 * 4 * 32) as model:  # of three full contexts
            assert [result.token_ids for result in model.complete_batch(prompts, **options)] == alone

    def test_without_it_output_ends(self, tiny):
        assert tiny.complete([5] * 250, max_tokens=300, **GREEDY).usage.completion_tokens == 6


class TestSizes:
    def test_a_cache_too_small_says_what_fits(self, tiny_path):
        with pytest.raises(
            InvalidConfigError, match=r"max_model_len is 200.*kv_cache_bytes \(0.0 MiB\) holds 64 tokens"
        ):
            DenseCore(tiny_path, max_model_len=200, kv_cache_bytes=10_000)
        with DenseCore(tiny_path, kv_cache_bytes=10_000) as model:
            assert model.max_model_len == 64
            assert model.get_metrics()["kv_cache_bytes"] <= 10_000

    def test_more_than_the_machine_has(self, tiny_path):
        with pytest.raises(InvalidConfigError, match="kv_cache_bytes is 4611686018427387904, but only"):
            DenseCore(tiny_path, kv_cache_bytes=2**62)
