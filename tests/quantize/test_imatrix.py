"""Measuring importance: against sums over the activations themselves; and that it helps where bits are few."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from densecore import DenseCore, InvalidConfigError
from densecore.compare import compare_models
from densecore.data import builtin_model_path
from densecore.imatrix import measure_importance
from densecore.quantize import QuantConfig, quantize_model
from tests.conftest import shared_path
from tests.gguf_factory import make_model
from tests.models.expert_files import mixtral
from tests.models.running import open_model, run

TEXT = "def read(self, size=-1):\n    return self._file.read(size)\n" * 4


@pytest.fixture(scope="module")
def model():
    with DenseCore(builtin_model_path()) as model:
        yield model


def test_sums_are_those_of_the_activations(model: DenseCore) -> None:
    ids = model.tokenize(TEXT)[:40]
    done = []
    matrix = measure_importance(model.forward, ids, 16, bos_id=0, dataset="t", progress=lambda *n: done.append(n))
    assert done == [(1, 2), (2, 2)]
    assert (matrix.num_chunks, matrix.chunk_size, matrix.datasets) == (2, 16, ["t"])
    names = {"output.weight"} | {f"blk.{n}.{role}.weight" for n in range(6) for role in ROLES}
    assert set(matrix.names) == names
    heads, inputs = [], []
    for chunk in ([0, *ids[1:16]], [0, *ids[17:32]]):
        hooks = {
            "blk.2.z": lambda value: heads.append(value),
            "blk.2.ffn_down.input": lambda value: inputs.append(value),
        }
        model.forward(chunk, hooks=hooks)
    expected = np.concatenate(heads).reshape(32, -1)
    np.testing.assert_allclose(matrix.sums["blk.2.attn_output.weight"][0], np.square(expected).sum(0), rtol=1e-4)
    np.testing.assert_allclose(
        matrix.sums["blk.2.ffn_down.weight"][0], np.square(np.concatenate(inputs)).sum(0), rtol=1e-4
    )
    assert matrix.counts["blk.2.attn_output.weight"] == [32]
    assert (matrix.sums["blk.2.attn_q.weight"] == matrix.sums["blk.2.attn_v.weight"]).all()
    second = np.concatenate(inputs)[:, 256:512]
    norms = np.linalg.norm(second, axis=0)
    found = matrix.correlations["blk.2.ffn_down.weight"]
    assert (found.dtype, found.shape) == (np.float16, (3, 256, 256))
    np.testing.assert_allclose(found[1], second.T @ second / np.outer(norms, norms), atol=1e-3)
    assert matrix.correlations["blk.2.attn_q.weight"] is matrix.correlations["blk.2.attn_v.weight"]
    plain = measure_importance(model.forward, ids, 16, bos_id=0, correlations=False)
    assert not plain.correlations
    assert all((plain.sums[name] == matrix.sums[name]).all() for name in names)


def test_experts_are_measured_each(tmp_path: Path) -> None:
    """Against the router and the experts in numpy."""
    ids = np.random.default_rng(0).integers(3, 60, 24)
    settings = mixtral(n_layers=1)
    weights = settings["tensor_overrides"]
    seen = {}
    with open_model(make_model(tmp_path / "m.gguf", "llama", **settings)) as model:
        matrix = measure_importance(lambda chunk, hooks: run(model, chunk, hooks=hooks), list(ids), 24)
        run(model, ids, hooks={"blk.0.ffn_gate_inp.input": lambda value: seen.update(x=value)})
    x = seen["x"]
    scores = x @ weights["blk.0.ffn_gate_inp.weight"].T
    for expert in range(4):
        rows = x[(scores > scores[:, expert, None]).sum(1) < 2]
        gate, up = (rows @ weights[f"blk.0.ffn_{role}_exps.weight"][expert].T for role in ("gate", "up"))
        hidden = gate / (1 + np.exp(-gate)) * up
        for role, inputs in (("gate", rows), ("up", rows), ("down", hidden)):
            name = f"blk.0.ffn_{role}_exps.weight"
            assert matrix.counts[name][expert] == len(rows)
            np.testing.assert_allclose(matrix.sums[name][expert], np.square(inputs).sum(0), rtol=1e-2, atol=1e-3)
    dense = {f"blk.0.attn_{role}.weight" for role in ("q", "k", "v", "output")}
    assert set(matrix.correlations) == dense | {"blk.0.ffn_gate_inp.weight", "output.weight"}
    matrix.save(tmp_path / "m.imatrix.gguf")
    shapes = {tensor.name: tuple(tensor.shape) for tensor in gguf.GGUFReader(tmp_path / "m.imatrix.gguf").tensors}
    assert shapes["blk.0.ffn_down_exps.weight.in_sum2"] == (96, 4)
    assert shapes["blk.0.ffn_down_exps.weight.counts"] == (1, 4)


ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def test_inputs_can_be_replaced(model: DenseCore) -> None:
    seen = []
    hooks = {"blk.0.ffn_down.input": lambda value: 0 * value, "blk.0.mlp_out": lambda value: seen.append(value)}
    model.forward([0, 5, 6], hooks=hooks)
    assert not seen[0].any()


def test_text_too_short(model: DenseCore) -> None:
    with pytest.raises(InvalidConfigError, match="the text has 3 tokens"):
        measure_importance(model.forward, [1, 2, 3], 16)


def test_what_is_lost_becomes_less(tmp_path: Path) -> None:
    """KL divergence on one text, with importance measured on another: by a quarter at least."""
    source, text = shared_path("models", "pystd-6m-f16.gguf"), shared_path("models", "pystd-val.txt").read_text()
    with DenseCore(source) as base:
        ids = base.tokenizer.encode(text[60000:84000], add_special=True)
        measure_importance(base.forward, ids, 256, bos_id=base.tokenizer.bos_id).save(tmp_path / "m.gguf")
        divergences = []
        for matrix in (None, tmp_path / "m.gguf"):
            quantize_model(source, tmp_path / "q.gguf", QuantConfig("q3_k_s", imatrix=matrix))
            with DenseCore(tmp_path / "q.gguf") as model:
                paths = [source, tmp_path / "q.gguf"]
                divergences.append(compare_models([base, model], paths, text[:10000], 256)[1].kl_mean)
    assert divergences[1] < 0.75 * divergences[0]
