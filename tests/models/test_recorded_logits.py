"""Other architectures against what transformers and llama.cpp recorded, and how the work may be cut."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import shared_path
from tests.models.running import nmse, open_model, run

NAMES = ["gemma2", "phi3", "starcoder2", "mixtral", "qwen3moe", "deepseek2", "gpt-oss"]


@pytest.fixture(params=NAMES)
def recorded(request):
    values = np.load(shared_path("archs", f"{request.param}-f32.npz"))
    with open_model(shared_path("archs", f"{request.param}-f32.gguf")) as model:
        yield model, values


def test_logits_of_transformers(recorded):
    model, values = recorded
    assert np.abs(run(model, values["ids"]) - values["logits_hf"]).max() < 1e-3


def test_logits_of_llama_cpp(recorded):
    model, values = recorded
    assert np.abs(run(model, values["ids"]) - values["logits_llamacpp"]).max() < 5e-3  # its GELU is a table of float16


@pytest.mark.parametrize(("kv", "tolerance"), [("f16", 1e-6), ("q8_0", 2e-3)])
def test_other_caches(recorded, kv, tolerance):
    model, values = recorded
    got, expected = run(model, values["ids"], kv=kv), values["logits_hf"]
    if hasattr(model, "experts"):  # where two experts are nearly as good, the other one may be taken: few positions
        errors = [nmse(*rows) for rows in zip(got, expected, strict=True)]
        assert np.median(errors) < (5e-5 if kv == "f16" else tolerance)
    else:
        assert nmse(got, expected) < tolerance


@pytest.mark.parametrize("chunks", [[1] * 48, [20, 28], [7, 31, 10]], ids=["singly", "two", "odd"])
def test_chunks(recorded, chunks):
    model, values = recorded
    assert np.array_equal(run(model, values["ids"], chunks=chunks), run(model, values["ids"]))


def test_pattern(recorded):
    """The hook's readable form agrees, and shows the window."""
    model, values = recorded
    patterns: dict[str, np.ndarray] = {}
    hooks = {"blk.*.pattern": lambda value, name: patterns.update({name: value})}
    assert nmse(run(model, values["ids"], hooks=hooks), run(model, values["ids"])) < 1e-9
    for layer in range(model.config.n_layers):
        pattern = patterns[f"blk.{layer}.pattern"]
        has_sinks = model.config.architecture == "gpt-oss"
        assert (pattern.sum(-1) < 1).any() if has_sinks else np.allclose(pattern.sum(-1), 1, atol=1e-5)
        farthest = max(row - np.flatnonzero(pattern[:, row].any(0))[0] for row in range(48))
        assert farthest == min(model.windows[layer] or 48, 48) - 1
