"""Quantizing whole models: types, files, errors, and what the model loses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import gguf
import numpy as np
import pytest

import densecore.quantize as package
from densecore import DenseCore, DenseCoreError, InvalidConfigError, ModelLoadError
from densecore.gguf import GGMLType, GGUFFile, GGUFWriter
from densecore.perplexity import measure_perplexity
from densecore.quantize import PRESETS, Q4_K_M_CFG, ImportanceMatrix, QuantConfig, quantize_model
from densecore.quantize.mixes import MIXES, Place
from tests.conftest import shared_path
from tests.quantize.full_disk import full_disk

TYPES_OF_LLAMA_CPP = Path(__file__).with_name("types_llama_cpp.json")


@pytest.fixture(scope="module")
def source() -> Path:
    return shared_path("models", "pystd-6m-f16.gguf")


def small_model(path: Path, row: int = 256, dtype: type = np.float32) -> Path:
    """A file with a matrix and a norm: enough to be quantized, too little to be run."""
    rng = np.random.default_rng(0)
    writer = GGUFWriter(path)
    writer.add_metadata("general.architecture", "llama")
    writer.add_metadata("llama.block_count", 1)
    writer.add_metadata("general.tags", ["a", "b"])
    writer.add_tensor("blk.0.ffn_up.weight", rng.standard_normal((64, row)).astype(dtype))
    writer.add_tensor("blk.0.ffn_norm.weight", np.ones(row, np.float32))
    writer.add_tensor("output.weight", rng.standard_normal((32, row)).astype(dtype))
    writer.write()
    return path


# ------------------------------------------------------------------------------------------ configuration


def test_defaults_and_presets() -> None:
    assert QuantConfig() == Q4_K_M_CFG == QuantConfig("Q4_K_M", "q4_k_m", 32) == QuantConfig("q4_k")
    assert QuantConfig("q8_0").algorithm == "q8_0"
    assert QuantConfig(algorithm="q5_k_m").format == "q5_k_m"
    assert {f"{name.upper()}_CFG" for name in MIXES} == set(PRESETS)
    assert all(getattr(package, name).format == name.removesuffix("_CFG").lower() for name in PRESETS)
    assert all(QuantConfig(name, block_size=32).format == name for name in MIXES)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "q9"}, "format must be one of f32"),
        ({"format": "q8_0", "algorithm": "q4_0"}, "must agree"),
        ({"block_size": 64}, "block_size must be 32 or 256 for q4_k_m"),
        ({"tensor_types": {"(": "q4_k"}}, "regular expression"),
        ({"tensor_types": ["a"]}, "tensor_types must be a Mapping"),
        ({"imatrix": 5}, "imatrix must be the path of a file, not 5"),
        ({"tensor_types": {"a": "q4_k_m"}}, "a type of tensor_types"),
        ({"threads": -1}, "threads"),
        ({"pure": 1}, "pure must be True or False"),
    ],
)
def test_wrong_configurations(arguments: dict, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=re.escape(message)):
        QuantConfig(**arguments)


# ------------------------------------------------------------------------------------------ choice of types


@pytest.mark.parametrize("name", json.loads(TYPES_OF_LLAMA_CPP.read_text()))
def test_types_are_those_of_llama_cpp(name: str, source: Path) -> None:
    from densecore.quantize.choice import choose_types

    with GGUFFile.open(source) as file:
        chosen = {choice.tensor.name: choice.type.name for choice in choose_types(file, QuantConfig(name))}
    recorded = json.loads(TYPES_OF_LLAMA_CPP.read_text())[name]
    assert chosen == {tensor: recorded.get(tensor, recorded["*"]) for tensor in chosen} | {
        tensor: "F32" for tensor in chosen if "norm" in tensor
    }


def test_more_bits_go_to_outer_layers_and_each_third() -> None:
    layers = [layer for layer in range(32) if Place(layer, 32, 1).gets_more_bits]
    assert layers == [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]


@pytest.mark.parametrize(
    ("row", "expected"), [(256, ("Q4_K", "Q6_K")), (96, ("Q5_0", "Q8_0")), (20, ("F16", "F16"))], ids=str
)
def test_rows_that_blocks_do_not_divide(row: int, expected: tuple[str, str], tmp_path: Path) -> None:
    result = quantize_model(small_model(tmp_path / "in.gguf", row), tmp_path / "out.gguf")
    assert (result.tensors[0].type, result.tensors[2].type) == expected
    assert result.tensors[1].type == "F32"


def test_overrides_and_pure(tmp_path: Path) -> None:
    model = small_model(tmp_path / "in.gguf")
    config = QuantConfig("q4_0", tensor_types={"ffn_(up|down)": "q5_k", "up": "q8_0"})
    assert [t.type for t in quantize_model(model, tmp_path / "a.gguf", config).tensors] == ["Q5_K", "F32", "Q6_K"]
    result = quantize_model(model, tmp_path / "b.gguf", QuantConfig("q4_0", pure=True))
    assert [t.type for t in result.tensors] == ["Q4_0", "F32", "Q4_0"]


# ------------------------------------------------------------------------------------------ files


def test_result_metadata_and_tensors(tmp_path: Path) -> None:
    model, target = small_model(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    lines = []
    result = quantize_model(model, target, progress=lambda *facts: lines.append(facts[:2]))
    assert lines == [(1, 3), (2, 3), (3, 3)]
    assert (result.input_bytes, result.output_bytes) == (model.stat().st_size, target.stat().st_size)
    assert result.compression == result.input_bytes / result.output_bytes > 4
    read = gguf.GGUFReader(target)
    assert read.fields["general.file_type"].contents() == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert read.fields["general.quantization_version"].contents() == gguf.GGML_QUANT_VERSION
    assert read.fields["general.tags"].contents() == ["a", "b"]
    original = {tensor.name: tensor.data for tensor in gguf.GGUFReader(model).tensors}
    for tensor, figures in zip(read.tensors, result.tensors, strict=True):
        back = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(original[tensor.name].shape)
        error = np.sqrt(np.square(back - original[tensor.name], dtype=np.float64).mean())
        assert figures.rmse == pytest.approx(error, rel=1e-3)
        assert figures.n_bytes == tensor.n_bytes
    assert json.loads(json.dumps(result.as_dict()))["tensors"][0]["name"] == "blk.0.ffn_up.weight"


def test_the_same_bytes_with_any_number_of_threads(tmp_path: Path) -> None:
    model = small_model(tmp_path / "in.gguf", 8192)
    files = []
    for threads in (1, 3):
        quantize_model(model, tmp_path / "out.gguf", QuantConfig("q3_k_s", threads=threads))
        files.append((tmp_path / "out.gguf").read_bytes())
    assert files[0] == files[1]


def test_quantizing_again_has_to_be_asked_for(tmp_path: Path) -> None:
    model = small_model(tmp_path / "in.gguf")
    quantize_model(model, tmp_path / "q8.gguf", QuantConfig("q8_0"))
    with pytest.raises(InvalidConfigError, match=r"2 tensors are quantized already.*--allow-requantize"):
        quantize_model(tmp_path / "q8.gguf", tmp_path / "q4.gguf")
    assert not (tmp_path / "q4.gguf").exists()
    quantize_model(tmp_path / "q8.gguf", tmp_path / "again.gguf", QuantConfig("q8_0"))  # nothing changes
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "q8.gguf").read_bytes()
    result = quantize_model(tmp_path / "q8.gguf", tmp_path / "q4.gguf", QuantConfig(allow_requantize=True))
    assert [t.type for t in result.tensors] == ["Q4_K", "F32", "Q6_K"]


def test_weights_that_cannot_be_quantized(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "in.gguf")
    writer.add_metadata("general.architecture", "llama")
    values = np.ones((2, 256), np.float32)
    values[1, 3] = np.nan
    writer.add_tensor("blk.0.ffn_up.weight", values)
    writer.write()
    (tmp_path / "out.gguf").write_bytes(b"old")
    with pytest.raises(ModelLoadError, match=r"ffn_up.weight has weights that are not finite"):
        quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf")
    writer = GGUFWriter(tmp_path / "in.gguf")
    writer.add_metadata("general.architecture", "llama")
    writer.add_tensor("blk.0.ffn_up.weight", np.full((2, 256), 1e9, np.float32))
    writer.write()
    with pytest.raises(InvalidConfigError, match=r"weights that F16 cannot hold"):
        quantize_model(tmp_path / "in.gguf", tmp_path / "out.gguf", QuantConfig("f16"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.gguf", "out.gguf"]
    assert (tmp_path / "out.gguf").read_bytes() == b"old"


def test_arguments_of_other_kinds(tmp_path: Path) -> None:
    model, target = small_model(tmp_path / "in.gguf"), tmp_path / "out.gguf"
    for arguments, message in [
        ((None, target), "input_path must be the path of a file, not None"),
        ((model, ""), "output_path must be the path of a file"),
        ((model, target, "q4_0"), "config must be a QuantConfig, not 'q4_0'"),
    ]:
        with pytest.raises(InvalidConfigError, match=message):
            quantize_model(*arguments)  # type: ignore[arg-type]
    a_matrix(np.zeros((1, 256, 256), np.float16)).save(tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match=r"general\.architecture"):
        quantize_model(tmp_path / "m.gguf", target)
    assert not target.exists()


def test_broken_input_is_refused_as_by_the_loader(tmp_path: Path) -> None:
    model = small_model(tmp_path / "in.gguf")
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(ModelLoadError, match="truncated"):
        quantize_model(model, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


def test_full_disk(tmp_path: Path) -> None:
    model, target = small_model(tmp_path / "in.gguf", 1024), tmp_path / "out.gguf"
    target.write_bytes(b"old")
    with full_disk(1 << 14), pytest.raises(DenseCoreError, match=r"out.gguf: cannot write the file: File too large"):
        quantize_model(model, target)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.gguf", "out.gguf"]


# ------------------------------------------------------------------------------------------ importance matrix


def test_importance_matrix_in_a_file(tmp_path: Path) -> None:
    sums = {"blk.0.ffn_up.weight": (1 + 99 * (np.arange(256) % 8 == 0)).astype(np.float32)[None]}
    matrix = ImportanceMatrix(sums, {"blk.0.ffn_up.weight": np.array([8], np.float32)}, ["text"], 2, 4)
    matrix.save(tmp_path / "m.gguf")
    read = ImportanceMatrix.open(tmp_path / "m.gguf")
    assert (read.datasets, read.num_chunks, read.chunk_size, read.names) == (["text"], 2, 4, list(sums))
    oracle = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert (oracle["blk.0.ffn_up.weight.in_sum2"].data == sums["blk.0.ffn_up.weight"]).all()
    model = small_model(tmp_path / "in.gguf")
    with GGUFFile.open(model) as file:
        importance = read.of(file.tensors["blk.0.ffn_up.weight"])
        assert (importance == sums["blk.0.ffn_up.weight"] / 8).all()
        assert read.of(file.tensors["output.weight"]) is None
    config = QuantConfig("q2_k", imatrix=tmp_path / "m.gguf")
    quantize_model(model, tmp_path / "out.gguf", config)
    quantize_model(model, tmp_path / "plain.gguf", QuantConfig("q2_k"))
    errors = {}
    for name in ("out", "plain"):
        with GGUFFile.open(tmp_path / f"{name}.gguf") as file:
            assert file.metadata.get("quantize.imatrix.chunks_count") == (2 if name == "out" else None)
            blocks = file.tensor_data("blk.0.ffn_up.weight").reshape(64, -1)
            back = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q2_K)
            x = gguf.GGUFReader(model).tensors[0].data
            errors[name] = (sums["blk.0.ffn_up.weight"] * (back - x) ** 2).sum()
    assert errors["out"] < 0.8 * errors["plain"]


def test_importance_matrix_of_another_model(tmp_path: Path) -> None:
    name = "blk.0.ffn_up.weight"
    matrix = ImportanceMatrix({name: np.ones((1, 128), np.float32)}, {name: np.ones(1, np.float32)})
    matrix.save(tmp_path / "m.gguf")
    model = small_model(tmp_path / "in.gguf")
    with pytest.raises(ModelLoadError, match="measured with another model"):
        quantize_model(model, tmp_path / "out.gguf", QuantConfig(imatrix=tmp_path / "m.gguf"))
    with pytest.raises(ModelLoadError, match="not an importance matrix"):
        quantize_model(model, tmp_path / "out.gguf", QuantConfig(imatrix=model))


NAME = "blk.0.ffn_up.weight"


def a_matrix(correlations: np.ndarray) -> ImportanceMatrix:
    """For `small_model`, with these correlations (n_blocks, length, length)."""
    return ImportanceMatrix(
        {NAME: np.full((1, 256), 4, np.float32)},
        {NAME: np.full(1, 1000, np.float32)},
        correlations={NAME: correlations},
    )


def test_errors_cancel_where_inputs_go_together(tmp_path: Path) -> None:
    """With inputs that all are nearly the same, it is sums of a row's errors that count, and they nearly vanish."""
    together = np.full((1, 256, 256), 0.99, np.float16)
    together[:, np.arange(256), np.arange(256)] = 1
    a_matrix(together).save(tmp_path / "m.gguf")
    read = ImportanceMatrix.open(tmp_path / "m.gguf")
    assert list(read.correlations) == [NAME]
    assert (read.correlations[NAME] == together).all()
    model, sums = small_model(tmp_path / "in.gguf"), []
    for matrix in (None, tmp_path / "m.gguf"):
        quantize_model(model, tmp_path / "out.gguf", QuantConfig("q3_k_s", imatrix=matrix))
        blocks = gguf.GGUFReader(tmp_path / "out.gguf").tensors[0].data
        back = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.Q3_K)
        sums.append(np.abs((back - gguf.GGUFReader(model).tensors[0].data).sum(1)).mean())
    assert sums[1] < 0.1 * sums[0]


@pytest.mark.parametrize(
    ("correlations", "message"),
    [
        (np.full((1, 256, 256), np.nan, np.float16), "values that are no correlations"),
        (-np.ones((1, 256, 256), np.float16), "correlations that no inputs can have"),
        (np.zeros((2, 64, 64), np.float16), "measured with another model"),
        (np.zeros((16, 16, 16), np.float16), "measured with another model"),
        (np.zeros((1, 256, 256), np.float32), "expected F16 squares"),
        (np.zeros((1, 128, 256), np.float16), "expected F16 squares"),
    ],
)
def test_correlations_that_cannot_be(correlations: np.ndarray, message: str, tmp_path: Path) -> None:
    a_matrix(correlations).save(tmp_path / "m.gguf")
    model = small_model(tmp_path / "in.gguf")
    with pytest.raises(ModelLoadError, match=message):
        quantize_model(model, tmp_path / "out.gguf", QuantConfig(imatrix=tmp_path / "m.gguf"))
    assert not (tmp_path / "out.gguf").exists()


def test_counts_of_another_number_of_matrices(tmp_path: Path) -> None:
    matrix = ImportanceMatrix({NAME: np.ones((1, 256), np.float32)}, {NAME: np.ones(2, np.float32)})
    matrix.save(tmp_path / "m.gguf")
    with pytest.raises(ModelLoadError, match="has 2 counts for 1 matrices"):
        ImportanceMatrix.open(tmp_path / "m.gguf")


# ------------------------------------------------------------------------------------------ what is lost


def perplexity(path: Path, num_chunks: int) -> float:
    text = shared_path("models", "pystd-val.txt").read_text()
    with DenseCore(path) as model:
        ids = model.tokenizer.encode(text, add_special=True, parse_special=False)[: 256 * num_chunks]
        return measure_perplexity(model.forward, ids, 256, bos_id=model.tokenizer.bos_id).value


def test_perplexity_of_q4_k_m(source: Path, tmp_path: Path) -> None:
    quantize_model(source, tmp_path / "q.gguf")
    assert perplexity(tmp_path / "q.gguf", 40) <= 1.007 * perplexity(source, 40)
    with GGUFFile.open(tmp_path / "q.gguf") as file:
        assert file.tensors["blk.0.attn_q.weight"].type is GGMLType.Q4_K
