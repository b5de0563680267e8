"""Logits against those that llama.cpp computed for the same files, and against dequantized weights."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import shared_path
from tests.models.reference import Reference
from tests.models.running import nmse, open_model, run

F32_MODELS = ["tiny-llama-f32", "tiny-qwen2-f32", "tiny-qwen3-f32", "stories260K"]


def golden(name: str):
    recorded = np.load(shared_path("golden", f"{name}.npz"))
    return shared_path("models", f"{name}.gguf"), recorded["ids"], recorded["logits"]


@pytest.mark.parametrize("name", F32_MODELS)
def test_f32_logits_with_f32_cache(name):
    path, ids, expected = golden(name)
    with open_model(path) as model:
        logits = run(model, ids)
    assert np.abs(logits - expected).max() < 1e-3


@pytest.mark.parametrize("name", F32_MODELS)
def test_f32_logits_with_f16_cache(name):
    path, ids, expected = golden(name)
    with open_model(path) as model:
        assert nmse(run(model, ids, kv="f16"), expected) < 1e-6


@pytest.mark.parametrize("kv", ["f32", "f16"])
def test_q4_k_m(kv):
    path, ids, expected = golden("tiny-qwen2-Q4_K_M")
    with open_model(path) as model:
        logits = run(model, ids, kv=kv)
    assert nmse(logits, expected) < 1e-3
    assert nmse(logits, Reference(path).forward(ids)) < 5e-4
