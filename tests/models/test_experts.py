"""Models with experts: transformers' logits, equal bits however the work is cut, and files of either kind of MLA."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from densecore import DenseCore
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile, GGUFWriter
from densecore.models import AdapterSet, AdapterUse, Batch, KVCache, load_adapter
from tests.convert.tiny import COLUMNS
from tests.gguf_factory import make_model
from tests.lora_factory import make_adapter, merge
from tests.models.checkpoints import TOKENS, converter
from tests.models.checks import check_hooks, check_logits
from tests.models.expert_files import mixtral
from tests.models.record_experts import CONFIGURATIONS, LOGITS
from tests.models.running import nmse, open_model, run
from tests.models.test_lora import run_with

CASES = json.loads(CONFIGURATIONS.read_text())
RECORDED = np.load(LOGITS)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A function that gives the GGUF file of a case, made when it is first asked for."""
    return converter(tmp_path_factory.mktemp("experts"), CASES)


@pytest.fixture(params=CASES)
def case(request, files):
    with open_model(files(request.param)) as model:
        yield request.param, model


def test_logits_of_transformers(case):
    name, model = case
    check_logits(model, RECORDED[name], num_threads=1)


def test_hooks(case):
    check_hooks(case[1])


# ------------------------------------------------------------------------ the other form of MLA


def with_kv_b(source: Path, target: Path) -> Path:
    """A copy of a file of DeepSeek as older converters wrote it: keys and values of all heads by one matrix."""
    with GGUFFile.open(source) as file:
        meta, arch = file.metadata, "deepseek2.attention"
        key, value = meta[f"{arch}.key_length_mla"], meta[f"{arch}.value_length_mla"]
        n_heads, rank = meta[f"{arch}.head_count"], meta[f"{arch}.kv_lora_rank"]
        changes = {f"{arch}.key_length": key, f"{arch}.value_length": value, f"{arch}.head_count_kv": n_heads}
        writer = GGUFWriter(target)
        for name in meta:
            if not name.endswith("_mla"):
                writer.add_metadata(name, changes.get(name, meta[name]), meta.value_type(name))
        for tensor in file.tensors.values():
            name, data = tensor.name, file.tensor_data(tensor.name)
            if name.endswith("attn_k_b.weight"):
                v_b = file.tensor_data(name.replace("k_b", "v_b")).view(np.float32).reshape(n_heads, value, rank)
                k_b = data.view(np.float32).reshape(n_heads, rank, -1).swapaxes(1, 2)
                both = np.ascontiguousarray(np.concatenate([k_b, v_b], axis=1))
                shape = (rank, both.size // rank)
                writer.add_tensor(name.replace("k_b", "kv_b"), both.reshape(-1).view(np.uint8), tensor.type, shape)
            elif not name.endswith("attn_v_b.weight"):
                writer.add_tensor(name, data, tensor.type, tensor.shape)
        writer.write()
    return target


@pytest.mark.parametrize("name", ["deepseek2", "deepseek2-lite"])
def test_keys_and_values_by_one_matrix(name, files, tmp_path):
    with open_model(with_kv_b(files(name), tmp_path / "old.gguf")) as model:
        assert np.abs(run(model, TOKENS)[:, COLUMNS] - RECORDED[name]).max() < 1e-3


# ------------------------------------------------------------------------ equal bits


@pytest.fixture(params=["Q8_0", "Q4_K", "MXFP4"])
def quantized(request, tmp_path):
    """A Mixtral with 8 experts of which tokens pass 3; down in another format, which takes activations otherwise."""
    arguments = mixtral(n_experts=8, n_used=3, dim=256, hidden_dim=256)
    types = arguments.pop("tensor_types") | {"*_exps.weight": request.param}
    if request.param == "MXFP4":
        types = {"*.ffn_down_exps.weight": "Q6_K"} | types
    path = make_model(tmp_path / "m.gguf", tensor_type="Q8_0", tensor_types=types, **arguments)
    with open_model(path) as model:
        yield model


def test_any_cut_gives_the_same_bits(quantized):
    """Chunks decide how many tokens meet an expert at once, and with that which kernel multiplies them."""
    tokens = np.random.default_rng(3).integers(3, 60, 75)
    whole = run(quantized, tokens)
    for chunks in ([1] * 75, [2, 31, 42], [75]):
        assert np.array_equal(run(quantized, tokens, chunks=chunks), whole)
    for num_threads in (1, 3):
        assert np.array_equal(run(quantized, tokens, num_threads=num_threads), whole)
    assert np.array_equal(run(quantized, tokens, hooks={"embed": lambda value: None}), whole)


def test_company(quantized):
    """Two sequences in one batch give what each gives alone."""
    tokens, lengths = np.random.default_rng(4).integers(3, 60, 33).astype(np.int32), (20, 13)
    tables = np.array([[5, 0, 9, 2, 7], [1, 8, 3, 6, 0]], np.int32)
    seq_index = np.repeat(np.array([0, 1], np.int32), lengths)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    slots = tables[seq_index, positions // 4] * 4 + positions % 4
    batch = Batch(tokens, positions, slots, seq_index, tables, np.arange(33, dtype=np.int32))
    together = quantized.forward(batch, KVCache(quantized.config, 16, 4, "f16"), 2).copy()
    alone = [run(quantized, part, kv="f16") for part in (tokens[:20], tokens[20:])]
    assert np.array_equal(together, np.concatenate(alone))


def test_in_an_engine(tmp_path):
    """Batched with prompts in chunks, the output is that of each request alone."""
    path = make_model(tmp_path / "m.gguf", **mixtral())
    prompts = [[5 + (i * n) % 50 for i in range(3 + 17 * n)] for n in range(4)]
    options = {"temperature": 0, "repetition_penalty": 1.0, "max_tokens": 12, "logit_bias": {2: -100}}
    with DenseCore(path, prefix_caching=False) as model:
        alone = [model.complete(prompt, **options).token_ids for prompt in prompts]
    with DenseCore(path, max_num_batched_tokens=24, speculation="prompt-lookup") as model:
        assert [result.token_ids for result in model.complete_batch(prompts, **options)] == alone


# ------------------------------------------------------------------------ adapters


@pytest.mark.parametrize("name", ["qwen2moe", "deepseek2"])
def test_adapters_of_all_other_matrices(name, files, tmp_path):
    """Attention, routers and shared experts: what an adapter does is what merging it does."""
    with open_model(files(name)) as model:
        wanted = [matrix for matrix in model.linears if matrix.startswith("blk.")]
        path = make_adapter(tmp_path / "lora.gguf", files(name), wanted, rank=3, alpha=2)
        adapter = load_adapter(path, model)
        model.adapters = AdapterSet([adapter])
        logits = run_with(model, TOKENS, [AdapterUse(adapter, 0.5)])
    with open_model(merge(tmp_path / "merged.gguf", files(name), {path: 0.5})) as merged:
        assert nmse(logits, run(merged, TOKENS)) < 1e-10


def test_adapters_of_experts_are_refused(tmp_path):
    path = make_model(tmp_path / "m.gguf", **mixtral())
    writer = GGUFWriter(tmp_path / "lora.gguf")
    for key, value in {
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.architecture": "llama",
        "adapter.lora.alpha": 2.0,
    }.items():
        writer.add_metadata(key, value)
    for half, shape in (("lora_a", (64, 2, 4)), ("lora_b", (2, 96, 4))):
        data = np.zeros(np.prod(shape), np.float32).view(np.uint8)
        writer.add_tensor(f"blk.0.ffn_up_exps.weight.{half}", data, 0, shape)
    writer.write()
    with open_model(path) as model, pytest.raises(ModelLoadError, match=r"each expert.*merge the adapter"):
        load_adapter(tmp_path / "lora.gguf", model)
