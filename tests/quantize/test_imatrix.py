"""Measuring importance: against sums over the activations themselves; and that it helps where bits are few."""

from __future__ import annotations

import numpy as np
import pytest

from densecore import DenseCore, InvalidConfigError
from densecore.data import builtin_model_path
from densecore.imatrix import measure_importance

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
    names = {f"blk.{n}.{role}.weight" for n in range(6) for role in ROLES}
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


ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def test_inputs_can_be_replaced(model: DenseCore) -> None:
    seen = []
    hooks = {"blk.0.ffn_down.input": lambda value: 0 * value, "blk.0.mlp_out": lambda value: seen.append(value)}
    model.forward([0, 5, 6], hooks=hooks)
    assert not seen[0].any()


def test_text_too_short(model: DenseCore) -> None:
    with pytest.raises(InvalidConfigError, match="the text has 3 tokens"):
        measure_importance(model.forward, [1, 2, 3], 16)
