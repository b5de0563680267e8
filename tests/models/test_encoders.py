"""Encoders against recorded hidden states of transformers and llama.cpp, and their promise of equal bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile
from densecore.models import ENCODERS, Encoder, EncoderBatch, Hooks, load_any, load_model
from densecore.models.jina_bert_v2 import alibi_slopes
from tests.conftest import shared_path
from tests.encoder_factory import make_encoder
from tests.gguf_factory import make_model

RECORDED = np.load(Path(__file__).with_name("encoders.npz"))
IDS = RECORDED["ids"].tolist()
RNG = np.random.default_rng(2)


@pytest.fixture(scope="module", params=sorted(ENCODERS))
def encoder(request, tmp_path_factory):
    path = make_encoder(tmp_path_factory.mktemp("encoder") / "model.gguf", request.param)
    with GGUFFile.open(path) as file:
        yield load_any(file)


def hidden(model: Encoder, *texts: list[int], num_threads: int = 2, hooks: Hooks | None = None) -> list[np.ndarray]:
    batch = EncoderBatch.pack(texts)
    return np.split(model.forward(batch, num_threads, hooks).copy(), batch.starts[1:-1])


def texts(*lengths: int) -> list[list[int]]:
    return [RNG.integers(5, 60, length).tolist() for length in lengths]


def test_hidden_states_are_those_of_llama_cpp(encoder):
    """Which looks up GELU in a table of float16, so that it is farther from models with GELU."""
    (states,) = hidden(encoder, IDS)
    expected = RECORDED[encoder.config.architecture]
    assert np.abs(states - expected).max() < (1e-4 if encoder.config.architecture == "nomic-bert" else 5e-3)


def test_bert_is_that_of_transformers():
    recorded = np.load(shared_path("archs", "bert-f32.npz"))
    with GGUFFile.open(shared_path("archs", "bert-f32.gguf")) as file:
        (states,) = hidden(load_any(file), recorded["ids"].tolist())
    assert np.abs(states - recorded["hidden_hf"]).max() < 1e-4
    assert np.abs(states.mean(0) - recorded["emb_hf"]).max() < 1e-4


def test_company_and_threads_leave_the_bits(encoder):
    together = texts(17, 1, 60, 33, 2)
    states = hidden(encoder, *together)
    for text, expected in zip(together, states, strict=True):
        (alone,) = hidden(encoder, text, num_threads=1)
        assert np.array_equal(alone, expected)


def test_hooks_see_the_same_bits(encoder):
    seen: dict[str, np.ndarray] = {}
    two = texts(9, 21)
    hooks = Hooks({"*": lambda value, name: seen.__setitem__(name, value.copy()) if "pattern" not in name else None}, 2)
    by_one = hidden(encoder, *two, hooks=Hooks({"blk.*.resid_post": lambda value: None}, 2))
    assert all(map(np.array_equal, by_one, hidden(encoder, *two)))
    with_patterns = hidden(encoder, *two, hooks=hooks)
    assert np.allclose(with_patterns[1], by_one[1], atol=1e-4)
    assert seen["blk.1.resid_post"].shape == (30, 64)
    assert seen["blk.0.q"].shape == (30, 4, 16)


@pytest.mark.parametrize("tensor_type", ["F16", "Q8_0"])
def test_weights_in_other_formats(tmp_path, tensor_type):
    path = make_encoder(tmp_path / "model.gguf", tensor_type=tensor_type, n_heads=3, dim=96)
    exact = make_encoder(tmp_path / "exact.gguf", n_heads=3, dim=96)
    with GGUFFile.open(path) as file, GGUFFile.open(exact) as exact_file:
        (states,), (expected,) = hidden(load_any(file), IDS), hidden(load_any(exact_file), IDS)
    cosines = (states * expected).sum(1) / np.linalg.norm(states, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.min() > (0.9999 if tensor_type == "F16" else 0.999)


@pytest.mark.parametrize("n_heads", [8, 12])
def test_slopes_of_alibi(n_heads):
    """Press's own way to put it: a series for a power of two of heads, and every other one of the next for the rest."""

    def series(n: int) -> list[float]:
        return [2 ** (-8 * (i + 1) / n) for i in range(n)]

    expected = series(8) if n_heads == 8 else series(8) + series(16)[::2][:4]
    assert np.allclose(alibi_slopes(n_heads, 8.0), expected, rtol=1e-6)


def test_what_is_no_encoder_is_refused(tmp_path):
    with GGUFFile.open(make_encoder(tmp_path / "a.gguf")) as file, pytest.raises(ModelLoadError, match="is an encoder"):
        load_model(file)
    missing = make_encoder(tmp_path / "b.gguf", drop=("blk.1.ffn_up.weight",))
    with GGUFFile.open(missing) as file, pytest.raises(ModelLoadError, match=r"ffn_up\.weight of shape"):
        load_any(file)
    half = make_encoder(tmp_path / "c.gguf", n_labels=1, drop=("cls.output.weight", "cls.output.bias"))
    with GGUFFile.open(half) as file, pytest.raises(ModelLoadError, match=r"not cls\.output\.weight"):
        load_any(file)
    both_ways = make_model(tmp_path / "d.gguf", metadata_overrides={"llama.attention.causal": False})
    with GGUFFile.open(both_ways) as file, pytest.raises(ModelLoadError, match="attention both ways"):
        load_any(file)
