"""Generated models: shapes and types as those of the published files, and files that work."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from pathlib import Path

import gguf
import numpy as np
import pytest

from bench.models import make_model, resized, vocabulary
from bench.random_blocks import random_weights
from bench.shapes import MIXES, SHAPES, tensor_shapes, tensor_type
from densecore import DenseCore
from densecore.gguf import GGMLType, GGUFFile
from densecore.models import load_model
from densecore.tokenizer import Tokenizer


def matrix_types(shape: str, mix: str) -> Counter[str]:
    sizes = [(name, size) for name, size in tensor_shapes(SHAPES[shape]) if len(size) == 2]
    return Counter(tensor_type(SHAPES[shape], mix, name, size).name for name, size in sizes)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        ("qwen2.5-0.5b", 494_032_768),
        ("llama-3.2-1b", 1_235_814_400 + 32),  # and rope_freqs
        ("qwen3-0.6b", 596_049_920),
        ("llama-2-7b", 6_738_415_616),
        ("mixtral-8x7b", 46_702_792_704),
    ],
)
def test_parameters_of_the_real_models(shape: str, parameters: int) -> None:
    assert sum(math.prod(size) for _, size in tensor_shapes(SHAPES[shape])) == parameters


@pytest.mark.parametrize(
    ("shape", "mix", "types"),  # as llama.cpp lists them when it loads the published files
    [
        ("qwen2.5-0.5b", "Q4_K_M", {"Q5_0": 132, "Q8_0": 13, "Q4_K": 12, "Q6_K": 12}),
        ("qwen2.5-0.5b", "Q5_K_M", {"Q5_1": 132, "Q8_0": 13, "Q5_K": 12, "Q6_K": 12}),
        ("qwen2.5-0.5b", "Q4_0", {"Q4_0": 168, "Q8_0": 1}),
        ("qwen2.5-0.5b", "Q6_K", {"Q8_0": 145, "Q6_K": 24}),
        ("llama-3.2-1b", "Q4_K_M", {"Q4_K": 96, "Q6_K": 17}),
        ("llama-2-7b", "Q4_K_M", {"Q4_K": 193, "Q6_K": 33}),
        ("llama-2-7b", "Q4_0", {"Q4_0": 225, "Q6_K": 1}),
        ("qwen3-0.6b", "Q8_0", {"Q8_0": 197}),
        ("qwen3-0.6b", "BF16", {"BF16": 197}),
    ],
)
def test_types_of_the_real_files(shape: str, mix: str, types: dict[str, int]) -> None:
    assert matrix_types(shape, mix) == types


@pytest.mark.parametrize("kind", [kind for kind in GGMLType if kind.name in {
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS", "MXFP4", "NVFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "TQ2_0",
}], ids=lambda kind: kind.name)  # fmt: skip
def test_random_weights_have_the_wanted_size(kind: GGMLType) -> None:
    data = random_weights(kind, 1 << 18, 0.05, np.random.default_rng(0))
    assert (data.dtype, data.size) == (np.uint8, kind.n_bytes(1 << 18))
    values = gguf.quants.dequantize(data.view("<f4") if kind is GGMLType.F32 else data, gguf.GGMLQuantizationType(kind))
    assert values.std() == pytest.approx(0.05, rel=0.02)
    assert abs(values.mean()) < 0.12 * 0.05  # 4-bit values without a minimum are not centred


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen3-0.6b"])
def test_file_loads_and_its_types_are_as_promised(folder: Path, name: str, mix: str) -> None:
    shape = resized(SHAPES[name], n_layers=1, n_vocab=300)
    with GGUFFile.open(make_model(shape, mix, folder)) as file:
        assert [*file.tensors] == [tensor for tensor, _ in tensor_shapes(shape)]
        for tensor, size in tensor_shapes(shape):
            assert file.tensors[tensor].shape == size[::-1]
            assert file.tensors[tensor].type == tensor_type(shape, mix, tensor, size)
        config = load_model(file).config
    for field in ("architecture", "n_layers", "dim", "hidden_dim", "n_heads", "n_kv_heads", "head_dim", "n_vocab"):
        assert getattr(config, field) == getattr(shape, field)


def test_experts(folder: Path) -> None:
    shape = dataclasses.replace(SHAPES["mixtral-8x7b"], name="m", dim=256, hidden_dim=256, n_layers=1, n_vocab=300)
    with DenseCore(str(make_model(shape, "Q4_K_M", folder)), max_model_len=64) as model:
        logits = model.forward([5, 299, 0, 17])
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 1000


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "llama-3.2-1b"])
def test_logits_are_finite_and_of_moderate_size(folder: Path, name: str) -> None:
    path = make_model(resized(SHAPES[name], n_layers=2, n_vocab=300), "Q4_K_M", folder)
    with DenseCore(str(path), max_model_len=64) as model:
        logits = model.forward([5, 299, 0, 17])
        assert model.generate("hello", max_tokens=3, seed=0) is not None
    assert np.isfinite(logits).all()
    assert 0.1 < logits.std() < 1000


def test_untied_model_has_an_output_matrix(folder: Path) -> None:
    shape = resized(dataclasses.replace(SHAPES["llama-2-7b"], dim=256, hidden_dim=512, n_heads=2, n_kv_heads=2), 1, 300)
    with GGUFFile.open(make_model(shape, "Q4_K_M", folder)) as file:
        assert file.tensors["output.weight"].type.name == "Q6_K"
        assert file.tensors["token_embd.weight"].type.name == "Q4_K"


def test_present_file_is_used_again(folder: Path) -> None:
    shape = resized(SHAPES["qwen3-0.6b"], 1, 300)
    path = make_model(shape, "Q8_0", folder)
    assert path.name == "qwen3-0.6b-1layers-300tokens-Q8_0.gguf"
    before = path.stat().st_mtime_ns
    assert make_model(shape, "Q8_0", folder) == path
    assert path.stat().st_mtime_ns == before
    assert make_model(shape, "Q8_0", folder, anew=True).stat().st_mtime_ns > before


def test_vocabulary_has_its_size_and_no_token_twice() -> None:
    for shape in SHAPES.values():
        tokens = vocabulary(shape)["tokenizer.ggml.tokens"]
        assert len(tokens) == len(set(tokens)) == shape.n_vocab


def test_tokenizer_of_a_generated_file(folder: Path) -> None:
    path = make_model(resized(SHAPES["qwen3-0.6b"], 1, 2000), "Q4_0", folder)
    tokenizer = Tokenizer.from_gguf(path)
    assert tokenizer.n_vocab == 2000
    for text in ("the tea, \u00e4 \u4e16 \U0001f600", "x\n\n  y"):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("tea eat")) < 7  # merges are used
