"""The KV cache: Q8_0 in all that an engine does with one, what it costs in quality; and when memory is taken."""

from __future__ import annotations

import gc
import json

import numpy as np
import psutil
import pytest

from densecore import DenseCore
from densecore.data import builtin_model_path
from densecore.exceptions import ModelLoadError
from densecore.models import KVCache
from densecore.perplexity import measure_perplexity
from tests.conftest import shared_path
from tests.gguf_factory import make_model

GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "logit_bias": {2: -100}}
PROMPT = [5 + i % 50 for i in range(150)]
Q8 = {"kv_cache_dtype": "q8_0"}


@pytest.fixture(scope="module", params=[16, 20], ids=lambda head_dim: f"head_dim={head_dim}")
def path(request, tmp_path_factory):
    """Heads that are no multiple of a group of 32."""
    sizes = {"n_heads": 4, "n_kv_heads": 2, "head_dim": request.param}
    return make_model(tmp_path_factory.mktemp("models") / "m.gguf", n_layers=2, **sizes)


@pytest.fixture(scope="module")
def model(path):
    with DenseCore(path, **Q8) as opened:
        yield opened


def tokens(model, prompt, **options):
    return model.complete(prompt, **GREEDY | {"max_tokens": 20} | options).token_ids


def test_prefixes_are_shared_and_copied(model, path):
    """A block is shared, and the one after it copied where prompts part."""
    prompts = [PROMPT, [*PROMPT[:77], 9, 8, 7], [*PROMPT[:32], 9], PROMPT]
    found = [model.complete(prompt, max_tokens=20, **GREEDY) for prompt in prompts]
    assert [result.usage.cached_tokens for result in found[1:]] == [77, 32, 149]
    with DenseCore(path, prefix_caching=False, **Q8) as alone:
        assert [result.token_ids for result in found] == [tokens(alone, prompt) for prompt in prompts]


def test_batched_as_alone(model):
    prompts = [[5 + (i * n) % 50 for i in range(3 + 37 * n)] for n in range(6)]
    batched = [result.token_ids for result in model.complete_batch(prompts, max_tokens=20, **GREEDY)]
    assert batched == [tokens(model, prompt) for prompt in prompts]


def test_context_shift(model, path):
    options = {"max_tokens": 150, "context_shift": True}
    shifted = tokens(model, PROMPT, **options)
    assert len(shifted) == 150
    with DenseCore(path, prefix_caching=False, max_num_batched_tokens=16, **Q8) as other:
        assert tokens(other, PROMPT, **options) == shifted


def test_speculation_changes_nothing(model, path):
    with DenseCore(path, speculation="prompt-lookup", **Q8) as other:
        assert tokens(other, PROMPT) == tokens(model, PROMPT)


def test_saved_and_loaded(model, path, tmp_path):
    expected = tokens(model, [*PROMPT, 9, 8])
    assert model.save_cache(PROMPT, tmp_path / "cache") == 150
    with DenseCore(path, **Q8) as other:
        assert other.load_cache(tmp_path / "cache") == PROMPT
        result = other.complete([*PROMPT, 9, 8], max_tokens=20, **GREEDY)
        assert (result.token_ids, result.usage.cached_tokens) == (expected, 150)
    with DenseCore(path) as other, pytest.raises(ModelLoadError, match="saved with kv_cache_dtype 'q8_0'"):
        other.load_cache(tmp_path / "cache")


@pytest.mark.parametrize("dtype", ["f16", "f32", "q8_0"])
@pytest.mark.parametrize("block_size", [8, 16, 24, 32])
def test_the_cache_is_as_large_as_planned(path, dtype, block_size):
    with DenseCore(path, kv_cache_dtype=dtype, block_size=block_size, kv_cache_bytes=60_000) as model:
        assert model.get_metrics()["kv_cache_bytes"] <= 60_000
        config = model._engine.model.config
        cache = KVCache(config, 3, block_size, dtype)
        assert cache.num_bytes == 3 * config.kv_block_bytes(block_size, dtype)


def test_twice_as_many_tokens_as_f16():
    sizes = {}
    for dtype in ("f16", "q8_0"):
        with DenseCore(builtin_model_path(), kv_cache_dtype=dtype, max_num_seqs=4) as model:
            sizes[dtype] = model.get_metrics()["kv_cache_bytes"]
    assert sizes["q8_0"] * 32 == sizes["f16"] * 17


def perplexity(dtype: str) -> float:
    text = shared_path("models", "pystd-val.txt").read_text()[:40_000]
    with DenseCore(builtin_model_path(), kv_cache_dtype=dtype) as model:
        tokenizer = model.tokenizer
        ids = tokenizer.encode(text)
        return measure_perplexity(lambda chunk: model.forward(np.asarray(chunk)), ids, 256, bos_id=None).value


def test_perplexity_is_that_of_f16():
    assert perplexity("q8_0") == pytest.approx(perplexity("f16"), rel=1e-3)


@pytest.mark.parametrize("with_draft", [False, True], ids=["", "draft"])
@pytest.mark.parametrize("preallocates", [False, True])
def test_resident_memory(tmp_path, preallocates, with_draft):
    """A cache of 128 MiB, or two, is in memory from the start, or hardly at all."""
    path = make_model(tmp_path / "m.gguf", n_layers=1)
    options = {"draft_model_path": path} if with_draft else {}
    with DenseCore(path):  # what the first engine of a process takes
        gc.collect()  # caches of earlier tests
        before = psutil.Process().memory_info().rss
    with DenseCore(path, max_num_seqs=4096, preallocate_kv_cache=preallocates, **options) as model:
        cache_bytes = model.get_metrics()["kv_cache_bytes"]
        taken = psutil.Process().memory_info().rss - before
        assert cache_bytes == (1 + with_draft) * 4096 * 256 * 128
        assert abs(taken - preallocates * cache_bytes) < 0.2 * cache_bytes
        assert len(tokens(model, PROMPT)) == 20


def test_command_line(capsys):
    from densecore.cli import main

    assert main(["bench", "-p", "16", "-n", "2", "-r", "1", "-o", "json", "-q", "--kv-cache-dtype", "q8_0"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert {result["type_k"] for result in results} == {"q8_0"}
