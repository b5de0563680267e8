"""Every architecture, tiny and random, with odd sizes, against a float64 forward pass that shares no code."""

from __future__ import annotations

import numpy as np
import pytest

from tests.gguf_factory import ARCHITECTURES, make_model
from tests.models.reference import Reference
from tests.models.running import nmse, open_model, run

INT8_TOLERANCE = 5e-3  # activations in 8 bits, through random weights that do not forgive

TOKENS = np.random.default_rng(7).integers(3, 60, 45)


def compare(path, tolerance=1e-10):
    with open_model(path) as model:
        error = nmse(run(model, TOKENS), Reference(path).forward(TOKENS))
    assert error < tolerance


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("sizes"),
    [
        {"dim": 64, "n_heads": 4, "n_kv_heads": 2},
        {"dim": 60, "n_heads": 3, "n_kv_heads": 1, "hidden_dim": 101, "n_layers": 1},
        {"dim": 40, "n_heads": 5, "n_kv_heads": 5, "head_dim": 12},
    ],
    ids=["grouped", "odd", "wide-heads"],
)
def test_f32(tmp_path, arch, sizes):
    compare(make_model(tmp_path / "model.gguf", arch, **sizes))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_tied_output(tmp_path, arch):
    compare(make_model(tmp_path / "model.gguf", arch, drop=["output.weight"]))


@pytest.mark.parametrize("tensor_type", ["F16", "BF16"])
def test_float_types(tmp_path, tensor_type):
    compare(make_model(tmp_path / "model.gguf", tensor_type=tensor_type))


@pytest.mark.parametrize("tensor_type", ["Q8_0", "Q5_1", "Q6_K", "Q4_K"])
def test_quantized_types(tmp_path, tensor_type):
    path = make_model(tmp_path / "model.gguf", "qwen2", dim=256, hidden_dim=512, n_heads=4, tensor_type=tensor_type)
    compare(path, tolerance=INT8_TOLERANCE)


def test_mixed_groups_in_one_projection(tmp_path):
    """q in blocks of 256, k of 32, v in floats: each takes the activations in its own form."""
    types = {"*.attn_k.weight": "Q8_0", "*.attn_v.weight": "F16"}
    path = make_model(tmp_path / "model.gguf", dim=256, hidden_dim=256, tensor_type="Q6_K", tensor_types=types)
    compare(path, tolerance=INT8_TOLERANCE)


def test_partial_rope_and_linear_scaling(tmp_path):
    overrides = {
        "llama.rope.dimension_count": np.uint32(8),
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": np.float32(4),
        "llama.rope.freq_base": np.float32(500000),
    }
    compare(make_model(tmp_path / "model.gguf", metadata_overrides=overrides))


def test_llama3_rope_freqs(tmp_path):
    divisors = np.array([1, 1, 1.5, 4, 8, 8, 8, 8], np.float32)
    compare(make_model(tmp_path / "model.gguf", tensor_overrides={"rope_freqs.weight": divisors}))


def test_optional_bias_of_llama(tmp_path):
    bias = np.linspace(-1, 1, 64, dtype=np.float32)
    compare(make_model(tmp_path / "model.gguf", tensor_overrides={"blk.1.attn_output.bias": bias}))
