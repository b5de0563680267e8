"""What the cache holds is not computed again: conversations, equal prompts, tenants."""

from __future__ import annotations

import pytest

from densecore import DenseCore
from densecore.data import builtin_model_path
from tests.engine.sequences import new_scheduler, new_sequence, sizes, step
from tests.gguf_factory import make_model

GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "logit_bias": {2: -100}}


@pytest.fixture(scope="module")
def long_path(tmp_path_factory):
    """A random Llama with a context of 4,096 tokens."""
    return make_model(tmp_path_factory.mktemp("models") / "long.gguf", n_layers=1, max_len=4096)


@pytest.fixture
def long(long_path):
    with DenseCore(long_path, max_num_seqs=2) as model:
        yield model


def test_the_second_turn_computes_only_what_is_new(long):
    first = [3 + i % 60 for i in range(2000)]
    one = long.complete(first, max_tokens=50, **GREEDY)
    assert one.usage.cached_tokens == 0
    second = first + one.token_ids + [5, 6, 7] * 10
    two = long.complete(second, max_tokens=5, **GREEDY)
    assert two.usage.cached_tokens == 2000 + 50 - 1  # the last token of the output was never computed
    assert two.usage.prompt_tokens - two.usage.cached_tokens == 31
    assert long.get_metrics()["prompt_tokens_cached_total"] == 2049
    with DenseCore(builtin_model_path(), prefix_caching=False) as model:
        assert [model.complete([5] * 40, max_tokens=1).usage.cached_tokens for _ in range(2)] == [0, 0]


def test_the_same_prompt_again_computes_its_last_token_only(long):
    prompt = [3 + i % 60 for i in range(101)]
    results = [long.complete(prompt, max_tokens=8, **GREEDY) for _ in range(3)]
    assert [result.usage.cached_tokens for result in results] == [0, 100, 100]
    assert len({tuple(result.token_ids) for result in results}) == 1


def test_tenants_share_nothing(long):
    prompt = [3 + i % 50 for i in range(100)]
    salts = ["a", "b", "a", None]
    counts = [long.complete(prompt, max_tokens=1, cache_salt=salt).usage.cached_tokens for salt in salts]
    assert counts == [0, 0, 99, 0]


def test_a_failed_request_leaves_only_whole_blocks_behind():
    scheduler = new_scheduler()
    sequence = new_sequence(range(6))
    scheduler.add(sequence)
    batch = scheduler.schedule()
    scheduler.postprocess(batch, [[RuntimeError()]])
    assert scheduler.blocks.num_free == 10


class TestBlocks:
    def test_running_sequences_share_blocks(self):
        scheduler = new_scheduler()
        first, second = new_sequence(list(range(9)), 4), new_sequence([*range(9), 50], 4)
        scheduler.add(first)
        step(scheduler)
        scheduler.add(second)
        batch = step(scheduler)
        assert sizes(batch) == [1, 1]
        assert first.block_table[:2] == second.block_table[:2]
        assert first.block_table[2] != second.block_table[2]  # it will be written by both
        assert batch[1].copy == (first.block_table[2], second.block_table[2])
        assert scheduler.blocks.num_free == 10 - 4

    def test_equal_prompts_at_once_are_computed_once(self):
        scheduler = new_scheduler(num_blocks=40, max_num_seqs=6)
        common = [*range(30)]
        for last in range(5):
            scheduler.add(new_sequence([*common, 100 + last, 200, 201], 3))
        scheduler.add(new_sequence(6, 3))
        num_computed = 0
        while scheduler.has_work:
            num_computed += sum(sizes(step(scheduler)))
        prompts, outputs = 33 + 4 * (33 - 30) + 6, 6 * 2
        assert num_computed == prompts + outputs

    def test_the_least_recently_used_is_given_out_first(self):
        scheduler = new_scheduler(num_blocks=8)
        prompts = [[100 * i + j for j in range(8)] for i in range(3)]
        for prompt in (prompts[0], prompts[1], prompts[0], prompts[2]):
            scheduler.add(new_sequence(prompt, 1))
            step(scheduler)
        assert scheduler.blocks.num_cached == 6
        scheduler.add(new_sequence(16, 1))  # takes the two that are blank, and two more
        step(scheduler)
        found = [scheduler.blocks.find_prefix(new_sequence(prompt)).num_tokens for prompt in prompts]
        assert found == [7, 0, 7]

    def test_forget(self):
        scheduler = new_scheduler()
        scheduler.add(new_sequence([*range(8)], 1))
        step(scheduler)
        assert scheduler.blocks.num_cached == 2
        scheduler.blocks.forget()
        assert scheduler.blocks.num_cached == 0
        assert scheduler.blocks.num_free == 10
        assert scheduler.blocks.find_prefix(new_sequence([*range(8)])).num_tokens == 0
