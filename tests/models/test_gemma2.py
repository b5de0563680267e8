"""What is Gemma 2's own: keys of metadata that may be missing or wrong, and windows in an engine."""

from __future__ import annotations

import numpy as np
import pytest

from densecore import DenseCore
from densecore.exceptions import ModelLoadError
from tests.gguf_factory import make_model
from tests.models.running import open_model

KEYS = ["gemma2.attention.sliding_window", "gemma2.attn_logit_softcapping", "gemma2.final_logit_softcapping"]


def test_older_files_lack_keys(tmp_path):
    with open_model(make_model(tmp_path / "m.gguf", "gemma2", drop=KEYS)) as model:
        assert (model.windows[0], model.attention_cap, model.logits_cap) == (4096, 50, 30)


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("value", [np.float32(-1), np.float32(np.nan), np.int32(-4), "many"])
def test_keys_that_cannot_be(tmp_path, name, value):
    path = make_model(tmp_path / "m.gguf", "gemma2", metadata_overrides={name: value})
    with pytest.raises(ModelLoadError, match=name), open_model(path):
        pass


def test_the_largest_one_scales_scores_by_the_size_of_the_model(tmp_path):
    sizes = {"n_heads": 2, "n_kv_heads": 1, "head_dim": 8, "hidden_dim": 8, "dim": 64}
    for n_layers, scale in ((45, 8**-0.5), (46, 32**-0.5)):
        with open_model(make_model(tmp_path / "m.gguf", "gemma2", n_layers=n_layers, **sizes)) as model:
            assert model.attention_scale == np.float32(scale)


@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_in_an_engine(tmp_path, dtype):
    """Far beyond its window of 9 tokens: batched, chunked, from the cache or anew, the output is the same."""
    path = make_model(tmp_path / "m.gguf", "gemma2", n_layers=3)
    prompts = [[5 + (i * n) % 50 for i in range(3 + 37 * n)] for n in range(6)]
    options = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": 20, "logit_bias": {2: -100}}
    with DenseCore(path, kv_cache_dtype=dtype, prefix_caching=False, max_num_batched_tokens=24) as model:
        alone = [model.complete(prompt, **options).token_ids for prompt in prompts]
    with DenseCore(path, kv_cache_dtype=dtype, speculation="prompt-lookup") as model:
        for _ in range(2):
            assert [result.token_ids for result in model.complete_batch(prompts, **options)] == alone
