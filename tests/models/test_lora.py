"""Adapters change a model as merging them into its weights does, and touch nobody else's tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from densecore.exceptions import ModelLoadError
from densecore.models import AdapterSet, AdapterUse, Batch, Hooks, KVCache, Model, load_adapter
from tests.conftest import shared_path
from tests.gguf_factory import make_model
from tests.lora_factory import make_adapter, matrix_shapes, merge
from tests.models.running import BLOCK_SIZE, check_peaks, nmse, open_model, run

TOKENS = np.random.default_rng(8).integers(3, 60, 41).astype(np.int32)


def load(model: Model, *paths) -> list:
    """Load adapters; the model then has these and no others."""
    adapters = [load_adapter(path, model) for path in paths]
    model.adapters = AdapterSet(adapters)
    return adapters


def run_with(model: Model, token_ids, uses, *, num_threads: int = 2, hooks=None, chunks=None) -> np.ndarray:
    """Logits of every position of one sequence that uses adapters."""
    num_blocks = -(-len(token_ids) // BLOCK_SIZE)
    cache, parts, first = KVCache(model.config, num_blocks, BLOCK_SIZE, "f32"), [], 0
    for size in chunks or [len(token_ids)]:
        batch = Batch.contiguous(np.asarray(token_ids[first : first + size]), first, num_blocks, BLOCK_SIZE)
        batch = batch.with_adapters(*model.adapters.columns([uses], [size]))
        checked = Hooks(hooks, model.config.n_layers) if hooks else None
        outputs = model.outputs(batch, cache, num_threads, checked)
        check_peaks(outputs)
        parts.append(outputs.logits.copy())
        first += size
    return np.concatenate(parts)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_same_as_merged(tmp_path, arch):
    base = make_model(tmp_path / "base.gguf", arch, dim=60, hidden_dim=76, n_heads=3, n_kv_heads=1)
    one = make_adapter(tmp_path / "one.gguf", base, rank=5, alpha=3, seed=1)
    merged = merge(tmp_path / "merged.gguf", base, {one: 0.5})
    with open_model(merged) as model:
        expected = run(model, TOKENS)
    with open_model(base) as model:
        (adapter,) = load(model, one)
        without = run(model, TOKENS)
        assert nmse(run_with(model, TOKENS, [AdapterUse(adapter, 0.5)]), expected) < 1e-10
    assert nmse(without, expected) > 1e-2


def test_several_adapters_add_up(tmp_path):
    base = make_model(tmp_path / "base.gguf")
    paths = [make_adapter(tmp_path / f"{rank}.gguf", base, rank=rank, alpha=rank, seed=rank) for rank in (1, 4, 6)]
    merged = merge(tmp_path / "merged.gguf", base, dict(zip(paths, (1.0, -0.5, 0.25), strict=True)))
    with open_model(merged) as model:
        expected = run(model, TOKENS)
    with open_model(base) as model:
        uses = [AdapterUse(*use) for use in zip(load(model, *paths), (1.0, -0.5, 0.25), strict=True)]
        assert nmse(run_with(model, TOKENS, uses), expected) < 1e-10


@pytest.mark.parametrize(
    "name", ["tiny-llama-f32", "tiny-qwen2-f32", "tiny-qwen3-f32", "stories260K", "tiny-qwen2-Q4_K_M"]
)
def test_models_of_others(tmp_path, name):
    base = shared_path("models", f"{name}.gguf")
    path = make_adapter(tmp_path / "adapter.gguf", base, rank=8, alpha=2)
    exact = "Q4" not in name  # the merged model computes in float32, a quantized one with int8 activations
    with open_model(merge(tmp_path / "merged.gguf", base, {path: 1.0})) as model:
        expected = run(model, TOKENS)
    with open_model(base) as model:
        got = run_with(model, TOKENS, [AdapterUse(load(model, path)[0], 1.0)])
        assert nmse(got, expected) < (1e-10 if exact else 3e-3)
        assert nmse(run(model, TOKENS), expected) > 3e-2


@pytest.mark.parametrize("tensor_type", ["F16", "BF16", "Q8_0", "Q4_0"])
def test_types_of_adapters(tmp_path, tensor_type):
    base = make_model(tmp_path / "base.gguf", dim=64, hidden_dim=96)
    path = make_adapter(tmp_path / "adapter.gguf", base, rank=32, alpha=32, tensor_type=tensor_type)
    with open_model(merge(tmp_path / "merged.gguf", base, {path: 1.0})) as model:
        expected = run(model, TOKENS)
    with open_model(base) as model:
        assert nmse(run_with(model, TOKENS, [AdapterUse(load(model, path)[0], 1.0)]), expected) < 1e-10


@pytest.mark.parametrize("place", ["token_embd", "output"])
def test_tied_embeddings_are_two_places(tmp_path, place):
    """An adapter of the embedding changes no logits directly, and one of the output no embeddings."""
    base = make_model(tmp_path / "base.gguf")
    embd = np.random.default_rng(1).normal(0, 1, matrix_shapes(base)["token_embd"]).astype(np.float32)
    tied = make_model(tmp_path / "tied.gguf", drop=["output.weight"], tensor_overrides={"token_embd.weight": embd})
    both = {"token_embd.weight": embd, "output.weight": embd}
    untied = make_model(tmp_path / "untied.gguf", tensor_overrides=both)
    path = make_adapter(tmp_path / "adapter.gguf", base, [place])
    with open_model(merge(tmp_path / "merged.gguf", untied, {path: 1.0})) as model:
        expected = run(model, TOKENS)
    with open_model(tied) as model:
        assert nmse(run_with(model, TOKENS, [AdapterUse(load(model, path)[0], 1.0)]), expected) < 1e-10


@pytest.mark.parametrize("alpha", [0.0, None])
def test_without_alpha_nothing_is_divided_by_the_rank(tmp_path, alpha):
    base = make_model(tmp_path / "base.gguf")
    with open_model(base) as model:
        one, other = load(
            model,
            make_adapter(tmp_path / "one.gguf", base, alpha=alpha),
            make_adapter(tmp_path / "other.gguf", base, alpha=4.0, rank=4),
        )
        expected = run_with(model, TOKENS, [AdapterUse(other, 1.0)])
        assert np.array_equal(run_with(model, TOKENS, [AdapterUse(one, 1.0)]), expected)


@pytest.fixture(params=["F32", "Q8_0"])
def model(request, tmp_path):
    """A model with three adapters: of all matrices, of some, and of one."""
    base = make_model(tmp_path / "base.gguf", "qwen2", tensor_type=request.param)
    names = (None, ["blk.0.attn_v", "blk.1.ffn_down"], ["output"])
    paths = [
        make_adapter(tmp_path / f"{i}.gguf", base, only, rank=rank, seed=i)
        for i, (only, rank) in enumerate(zip(names, (4, 9, 3), strict=True))
    ]
    with open_model(base) as opened:
        load(opened, *paths)
        yield opened


def test_chunks_threads_and_hooks(model):
    first, second, third = model.adapters.adapters
    for uses in ([AdapterUse(first, 1.0)], [AdapterUse(second, 0.3), AdapterUse(third, 2.0)]):
        whole = run_with(model, TOKENS, uses)
        assert np.array_equal(run_with(model, TOKENS, uses, chunks=[1] * 7 + [20, 14]), whole)
        assert np.array_equal(run_with(model, TOKENS, uses, num_threads=1), whole)
        assert np.array_equal(run_with(model, TOKENS, uses, num_threads=5), whole)
        assert np.array_equal(run_with(model, TOKENS, uses, hooks={"blk.*.q": lambda value: None}), whole)


def test_company(model):
    """Sequences with different adapters, with several, and with none give in one batch what each gives alone."""
    first, second, third = model.adapters.adapters
    uses = [[AdapterUse(first, 1.0)], [], [AdapterUse(second, 0.5), AdapterUse(third, -1.0)], [AdapterUse(first, 0.25)]]
    counts = [7, 5, 1, 9]
    cache = KVCache(model.config, 8, BLOCK_SIZE, "f32")
    tables = np.arange(8, dtype=np.int32).reshape(4, 2)
    seq_index = np.repeat(np.arange(4, dtype=np.int32), counts)
    positions = np.concatenate([np.arange(count, dtype=np.int32) for count in counts])
    slots = tables[seq_index, positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
    tokens = TOKENS[: sum(counts)]
    batch = Batch(tokens, positions, slots, seq_index, tables, np.arange(tokens.size, dtype=np.int32))
    together = model.forward(batch.with_adapters(*model.adapters.columns(uses, counts)), cache, 2).copy()
    for index, its_uses in enumerate(uses):
        mine = seq_index == index
        alone = run_with(model, tokens[mine], its_uses) if its_uses else run(model, tokens[mine])
        assert np.array_equal(together[mine], alone), index


def test_company_with_few_logits(model):
    """Logits of some tokens only: an adapter of the output matrix changes the right ones."""
    uses = [AdapterUse(model.adapters.adapters[2], 1.0)]
    cache = KVCache(model.config, 2, BLOCK_SIZE, "f32")
    tables, seq_index = np.arange(2, dtype=np.int32)[:, None], np.array([0, 0, 0, 1, 1, 1, 1], np.int32)
    positions = np.array([0, 1, 2, 0, 1, 2, 3], np.int32)
    tokens, slots = TOKENS[:7], tables[seq_index, 0] * BLOCK_SIZE + positions
    for changed in (0, 1):
        both = [uses if index == changed else [] for index in (0, 1)]
        batch = Batch(tokens, positions, slots, seq_index, tables, np.array([2, 5, 6], np.int32))
        got = model.forward(batch.with_adapters(*model.adapters.columns(both, [3, 4])), cache, 2).copy()
        for index, rows, wanted in ((0, got[:1], [2]), (1, got[1:], [2, 3])):
            mine = tokens[seq_index == index]
            alone = run_with(model, mine, uses) if index == changed else run(model, mine)
            assert np.array_equal(rows, alone[wanted])


def test_nothing_is_added_without_adapters(model):
    """A step whose tokens use none is the step of a model that has none loaded."""
    names = []
    for adapters in (model.adapters, AdapterSet()):
        model.adapters = adapters
        run(model, TOKENS)
        (records,) = [records for records in model._recorded._by_cache.values() if records] or [{}]
        names.append([record.plan.stages for record in records.values()])
    assert names[0] == names[1]
    assert "lora" not in str(names)


SCRIPT = """
import sys
import numpy as np
from tests.models.running import open_model
from tests.models.test_lora import AdapterUse, load, run_with
base, adapter, out = sys.argv[1:]
with open_model(base) as model:
    np.save(out, run_with(model, np.array([5, 6, 7], np.int32), [AdapterUse(load(model, adapter)[0], 0.5)]))
assert not hasattr(sys.modules["densecore.kernels.plan"].work, "signatures"), "something was compiled"
"""


def test_twins(tmp_path):
    base = make_model(tmp_path / "base.gguf", dim=32, hidden_dim=32, n_heads=2, n_kv_heads=1, n_layers=1)
    adapter = make_adapter(tmp_path / "adapter.gguf", base, rank=3)
    command = [sys.executable, "-c", SCRIPT, str(base), str(adapter), str(tmp_path / "logits.npy")]
    subprocess.run(command, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, check=True)
    with open_model(base) as model:
        compiled = run_with(model, [5, 6, 7], [AdapterUse(load(model, adapter)[0], 0.5)])
    assert nmse(np.load(tmp_path / "logits.npy"), compiled) < 1e-9


def test_a_matrix_that_no_step_reaches_is_refused(tmp_path):
    """An architecture that multiplies by a matrix in its own way must not ignore an adapter in silence."""
    base = make_model(tmp_path / "base.gguf")
    path = make_adapter(tmp_path / "adapter.gguf", base, ["blk.0.attn_q"])
    with open_model(base) as model:
        layer = model.layers[0]
        model.layers[0] = replace(layer, attn_q=replace(layer.attn_q, name="elsewhere"))
        with pytest.raises(ModelLoadError, match=r"cannot change blk\.0\.attn_q"):
            load(model, path)
