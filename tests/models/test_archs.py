"""Every dense architecture: a tiny checkpoint, converted, computes what transformers computed with the same weights.

`record_archs` says what each case is; what makes an architecture special must also show in the logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densecore import DenseCore
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile, GGUFWriter
from densecore.models import AdapterSet, AdapterUse, load_adapter, smollm3
from densecore.models.weights import LayerNorm, Linear
from tests.convert.tiny import COLUMNS
from tests.lora_factory import make_adapter, merge
from tests.models.checkpoints import LOGITS, TOKENS, configurations, converter
from tests.models.checks import check_hooks, check_logits
from tests.models.running import nmse, open_model, run
from tests.models.test_lora import run_with

CASES = configurations()
RECORDED = np.load(LOGITS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function that gives the GGUF file of a case, made when it is first asked for."""
    return converter(tmp_path_factory.mktemp("archs"), CASES)


@pytest.fixture(params=CASES)
def case(request, files):
    with open_model(files(request.param)) as model:
        yield request.param, model


def test_logits_of_transformers(case):
    name, model = case
    check_logits(model, RECORDED[name])


def test_hooks(case):
    _, model = case
    seen, c = check_hooks(model), model.config
    for layer in range(c.n_layers):
        assert seen[f"blk.{layer}.q"].shape == seen[f"blk.{layer}.z"].shape == (48, c.n_heads, c.head_dim)
        assert seen[f"blk.{layer}.k"].shape == seen[f"blk.{layer}.v"].shape == (48, c.n_kv_heads, c.head_dim)


def test_lora(case, files, tmp_path):
    """An adapter of all matrices of the layers and the embedding does what merging it does, fused ones included."""
    name, model = case
    wanted = [matrix for matrix in model.linears if matrix.startswith("blk.")] + ["token_embd"]
    path = make_adapter(tmp_path / "lora.gguf", files(name), wanted, rank=3, alpha=2)
    with open_model(merge(tmp_path / "merged.gguf", files(name), {path: 0.5})) as merged:
        expected = run(merged, TOKENS)
    adapter = load_adapter(path, model)
    model.adapters = AdapterSet([adapter])
    assert nmse(run_with(model, TOKENS, [AdapterUse(adapter, 0.5)]), expected) < 1e-10
    assert nmse(run(model, TOKENS), expected) > 1e-3


def without_one_vector(weights: Any) -> Iterator[tuple[str, Any]]:
    """A layer's weights with one vector left out, for each: norms of 1, biases of 0."""
    for field in fields(weights):
        value = getattr(weights, field.name)
        if isinstance(value, Linear) and value.bias is not None:
            yield f"{field.name}.bias", replace(weights, **{field.name: replace(value, bias=None)})
        elif isinstance(value, LayerNorm):
            other = LayerNorm(np.ones_like(value.weight), value.bias)
            yield f"{field.name}.weight", replace(weights, **{field.name: other})
            if value.bias.any():
                other = LayerNorm(value.weight, np.zeros_like(value.bias))
                yield f"{field.name}.bias", replace(weights, **{field.name: other})
        elif isinstance(value, np.ndarray):
            yield f"{field.name}.weight", replace(weights, **{field.name: np.ones_like(value)})


def test_every_vector_counts(case):
    """Without any one of a layer's norms and biases the logits are others: none is read and then forgotten."""
    name, model = case
    weights, one_by_one = model.layers[1], {"embed": lambda value: None}
    for vector, others in without_one_vector(weights):
        model.layers[1] = others
        error = nmse(run(model, TOKENS, hooks=one_by_one)[:, COLUMNS], RECORDED[name])
        if vector == "attn_k.bias" and name == "gpt2":  # adds the same to all scores of a token
            assert error < 1e-9
        else:
            assert error > 1e-6, vector


def changed(source: Path, target: Path, key: str, value: object) -> Path:
    """A copy of a model file with another value of a key, which it must have."""
    with GGUFFile.open(source) as file:
        writer = GGUFWriter(target)
        assert key in file.metadata
        for name in file.metadata:
            kind = file.metadata.value_type(name)
            writer.add_metadata(name, value if name == key else file.metadata[name], kind)
        for tensor in file.tensors.values():
            writer.add_tensor(tensor.name, file.tensor_data(tensor.name), tensor.type, tensor.shape)
        writer.write()
    return target


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama-linear", "llama.rope.scaling.factor", 4.0),
        ("llama-yarn", "llama.rope.scaling.yarn_beta_fast", 32.0),
        ("mistral3", "mistral3.attention.temperature_scale", 0.0),
        ("mistral3", "mistral3.rope.scaling.yarn_log_multiplier", 0.0),
        ("gemma3", "gemma3.attention.sliding_window", 10),
        ("gemma3", "gemma3.rope.freq_base_swa", 1e6),
        ("gemma3", "gemma3.rope.scaling.factor", 1.0),
        ("granite", "granite.embedding_scale", 1.0),
        ("granite", "granite.residual_scale", 1.0),
        ("granite", "granite.attention.scale", 0.25),
        ("granite", "granite.logit_scale", 1.0),
        ("olmo3", "olmo2.attention.sliding_window", 10),
        ("olmo3", "olmo2.rope.freq_base_swa", 5e3),
        ("olmo3", "olmo2.rope.scaling.yarn_attn_factor", 1.0),
        ("starcoder2", "starcoder2.attention.sliding_window", 10),
        ("gptneox", "gptneox.use_parallel_residual", False),
        ("gptneox", "gptneox.rope.dimension_count", 8),
        ("stablelm", "stablelm.rope.dimension_count", 8),
        ("command-r", "command-r.logit_scale", 1.0),
        ("cohere2", "cohere2.attention.sliding_window", 10),
    ],
)
def test_every_key_counts(files, tmp_path, name, key, value):
    with open_model(changed(files(name), tmp_path / "m.gguf", key, value)) as model:
        assert np.abs(run(model, TOKENS)[:, COLUMNS] - RECORDED[name]).max() > 1e-2


def test_layers_without_positions(files, monkeypatch):
    """SmolLM3 would be another model if its fourth layer had RoPE."""
    monkeypatch.setattr(smollm3, "NOPE_PERIOD", 100)
    with open_model(files("smollm3")) as model:
        assert np.abs(run(model, TOKENS)[:, COLUMNS] - RECORDED["smollm3"]).max() > 1e-2


def test_windows_by_layer(files, tmp_path):
    """A list of the layers with a window takes the place of the period."""
    key = "olmo2.attention.sliding_window_pattern"
    with open_model(files("olmo3")) as model:
        assert model.windows == [9, 9, 9, 0, 9]
    local = np.array([True, False, False, True, False])
    with open_model(changed(files("olmo3"), tmp_path / "m.gguf", key, local)) as model:
        assert model.windows == [9, 0, 0, 9, 0]


@pytest.mark.parametrize(
    ("name", "key", "value", "words"),
    [
        ("olmo3", "olmo2.attention.sliding_window_pattern", np.array([True]), "5, one a layer"),
        ("olmo3", "olmo2.attention.sliding_window", 2**29, "at most"),
        ("cohere2", "cohere2.attention.sliding_window", 0, "at least 1"),
        ("granite", "granite.logit_scale", 0.0, "logit_scale"),
        ("gpt2", "gpt2.context_length", 129, "position_embd"),
        ("mistral3", "mistral3.attention.temperature_scale", float("nan"), "temperature_scale"),
        ("falcon-7b", "falcon.attention.layer_norm_epsilon", -1.0, "layer_norm_epsilon"),
    ],
)
def test_refused(files, tmp_path, name, key, value, words):
    with pytest.raises(ModelLoadError, match=words), open_model(changed(files(name), tmp_path / "m.gguf", key, value)):
        pass


@pytest.mark.parametrize("name", ["gemma3", "gpt2", "mistral3", "falcon-40b"])
def test_in_an_engine(files, name):
    """Batched, chunked, from the cache or anew, the output is that of each prompt alone."""
    prompts = [[4 + (i * n) % 50 for i in range(3 + 17 * n)] for n in range(5)]
    options = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": 12, "logit_bias": {263: -100}}
    with DenseCore(files(name), prefix_caching=False, max_num_batched_tokens=24) as model:
        alone = [model.complete(prompt, **options).token_ids for prompt in prompts]
    with DenseCore(files(name), speculation="prompt-lookup") as model:
        for _ in range(2):
            assert [result.token_ids for result in model.complete_batch(prompts, **options)] == alone
