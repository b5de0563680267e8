"""The same bits, however the work is cut: chunks, threads, company in the batch."""

from __future__ import annotations

import numpy as np
import pytest

from densecore.models import Batch, KVCache
from tests.gguf_factory import make_model
from tests.models.running import open_model, run

TOKENS = np.random.default_rng(3).integers(3, 60, 75)


@pytest.fixture(params=["F32", "F16", "Q8_0", "Q4_K", "mixed"])
def model(request, tmp_path):
    sizes = {"dim": 256, "hidden_dim": 256}
    tensor_type, tensor_types = request.param, {}
    if request.param == "mixed":  # products side by side that take different operands
        sizes["hidden_dim"] = 1024
        tensor_type, tensor_types = "Q4_K", {"blk.0.attn_v.weight": "Q8_0", "blk.1.attn_k.weight": "F16"}
        tensor_types |= {"blk.0.ffn_up.weight": "Q8_0", "blk.1.ffn_down.weight": "F16"}
    elif not request.param.startswith("Q"):
        sizes = {"dim": 60, "n_heads": 3, "n_kv_heads": 1}
    path = make_model(tmp_path / "model.gguf", "qwen2", tensor_type=tensor_type, tensor_types=tensor_types, **sizes)
    with open_model(path) as opened:
        yield opened


@pytest.mark.parametrize("kv", ["f16", "f32", "q8_0"])
@pytest.mark.parametrize("chunks", [[1] * 75, [32, 43], [7, 31, 37]], ids=["singly", "two", "odd"])
def test_chunks(model, kv, chunks):
    assert np.array_equal(run(model, TOKENS, kv=kv, chunks=chunks), run(model, TOKENS, kv=kv))


def test_number_of_pieces(model):
    whole = run(model, TOKENS, num_threads=1)
    for num_threads in (2, 3, 7):
        assert np.array_equal(run(model, TOKENS, num_threads=num_threads), whole)


@pytest.mark.parametrize("chunks", [[75], [31, 1, 1, 42]], ids=["whole", "cut"])
def test_recorded_or_one_by_one(model, chunks):
    """With hooks the operations run one by one, without any that share a stage."""
    seen = []
    by_one = run(model, TOKENS, chunks=chunks, hooks={"blk.*.resid_mid": lambda value: seen.append(value)})
    assert len(seen) == len(chunks) * model.config.n_layers
    assert np.array_equal(by_one, run(model, TOKENS, chunks=chunks))


def test_company(model):
    """Two sequences in one batch, their blocks interleaved, give what each gives alone."""
    lengths, block_size = (20, 13), 4
    cache = KVCache(model.config, 16, block_size, "f16")
    tables = np.array([[5, 0, 9, 2, 7], [1, 8, 3, 6, 0]], np.int32)
    seq_index = np.repeat(np.array([0, 1], np.int32), lengths)
    positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths])
    slots = tables[seq_index, positions // block_size] * block_size + positions % block_size
    tokens = np.concatenate([TOKENS[:20], TOKENS[40:53]]).astype(np.int32)
    batch = Batch(tokens, positions, slots, seq_index, tables, np.arange(33, dtype=np.int32))
    together = model.forward(batch, cache, 2).copy()
    assert np.array_equal(together[:20], run(model, TOKENS[:20], kv="f16"))
    assert np.array_equal(together[20:], run(model, TOKENS[40:53], kv="f16"))
