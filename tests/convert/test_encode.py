"""Types of tensors, and that they are written a few rows at a time."""

from __future__ import annotations

import tracemalloc

import gguf
import numpy as np
import pytest

from densecore.convert import convert_checkpoint
from densecore.convert.encode import encoded, type_of
from densecore.convert.lazy import CHUNK_ELEMENTS, LazyTensor, to_float32
from densecore.convert.shard import read_shard
from densecore.exceptions import ModelLoadError
from densecore.gguf import GGMLType, GGUFFile
from tests.convert.tiny import recorded, safetensors_bytes, to_bfloat16, write_checkpoint

VALUES = np.random.default_rng(0).standard_normal((40, 64), dtype=np.float32)


def lazy(values, dtype="F32"):
    return LazyTensor(dtype, values.shape, (values,))


def joined(tensor, kind):
    return np.concatenate([chunk.reshape(-1).view(np.uint8) for chunk in encoded("x", tensor, kind)])


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q8_0], ids=lambda kind: kind.name)
def test_types_of_the_gguf_package(kind):
    wanted = gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType(kind))
    assert np.array_equal(joined(lazy(VALUES), kind), wanted.reshape(-1).view(np.uint8))


def test_same_type_keeps_its_bits():
    bits = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 64)  # NaN and infinities too
    assert np.array_equal(joined(lazy(bits, "BF16"), GGMLType.BF16).view(np.uint16), bits.reshape(-1))
    halves = bits.view(np.float16)
    assert np.array_equal(joined(lazy(halves, "F16"), GGMLType.F16).view(np.uint16), bits.reshape(-1))


def test_bfloat16_source():
    wanted = (to_bfloat16(VALUES).astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(to_float32(to_bfloat16(VALUES), "BF16"), wanted)
    assert np.array_equal(to_float32(to_bfloat16(VALUES).T, "BF16"), wanted.T)


def test_float16_ends():
    values = np.array([[1.0, 70000.0]], np.float32)
    with pytest.raises(ModelLoadError, match="tensor x holds 70000, and F16 ends at 65504; use --outtype bf16 or f32"):
        joined(lazy(values), GGMLType.F16)
    assert joined(lazy(np.array([[np.inf, np.nan]], np.float32)), GGMLType.F16).view(np.float16)[0] == np.inf


@pytest.mark.parametrize(
    ("name", "shape", "wanted"),
    [
        ("token_embd.weight", (64, 32), GGMLType.Q8_0),
        ("output_norm.weight", (64,), GGMLType.F32),
        ("blk.0.attn_q_norm.weight", (4, 32), GGMLType.F32),
        ("blk.0.ffn_gate_inp.weight", (4, 32), GGMLType.F32),
        ("blk.0.ffn_gate_exps.bias", (4, 32), GGMLType.F32),
        ("blk.0.ffn_down.weight", (64, 48), GGMLType.F16),  # rows are no whole blocks
    ],
)
def test_type_of(name, shape, wanted):
    assert type_of(name, shape, GGMLType.Q8_0) is wanted


def test_chunks_are_rows_in_order(monkeypatch):
    """Pieces of any shape: whole rows, each element once."""
    monkeypatch.setattr("densecore.convert.lazy.CHUNK_ELEMENTS", 96)
    values = np.arange(6 * 4 * 32, dtype=np.float32).reshape(6, 4, 32)
    tensor = LazyTensor("F32", (6, 4, 32), (values.swapaxes(0, 1)[:2], values.swapaxes(0, 1)[2:]))
    chunks = list(tensor.chunks())
    assert max(chunk.size for chunk in chunks) <= 96
    assert all(chunk.shape[-1] == 32 for chunk in chunks)
    assert np.array_equal(np.concatenate([chunk.reshape(-1) for chunk in chunks]), values.swapaxes(0, 1).reshape(-1))


def test_memory_is_bounded(tmp_path, monkeypatch):
    """Matrices of 48 MB pass through chunks of 0.5 MB."""
    monkeypatch.setattr("densecore.convert.lazy.CHUNK_ELEMENTS", CHUNK_ELEMENTS // 16)
    config, tensors = recorded("llama")
    wide = np.zeros((1 << 16, 64), np.float32)
    sizes = {"gate_proj": wide, "up_proj": wide, "down_proj": wide.T}
    tensors = {
        name: sizes.get(name.split(".")[-2], values) for name, values in tensors.items() if "layers.1." not in name
    }
    source = write_checkpoint(
        tmp_path / "source", config | {"num_hidden_layers": 1, "intermediate_size": 1 << 16}, tensors
    )
    convert_checkpoint(source, tmp_path / "warm.gguf", "q8_0")  # imports what is needed
    tracemalloc.start()
    convert_checkpoint(source, tmp_path / "out.gguf", "q8_0")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_shard_as_the_format_says(tmp_path):
    """Types, an empty tensor, a scalar; numbers are views of the file."""
    arrays = {
        "a": VALUES,
        "b": VALUES.astype(np.float16),
        "c": to_bfloat16(VALUES),
        "empty": np.zeros((0, 4), np.float32),
        "scalar": np.array(3.0),
    }
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors_bytes(arrays))
    found = read_shard(path)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "a": "F32",
        "b": "F16",
        "c": "BF16",
        "empty": "F32",
        "scalar": "F64",
    }
    for name, values in arrays.items():
        assert np.array_equal(found[name].view, values)
        assert not found[name].view.flags.writeable


def test_outtypes(tmp_path):
    config, tensors = recorded("qwen2")
    source = write_checkpoint(tmp_path / "source", config, {name: to_bfloat16(t) for name, t in tensors.items()})
    kinds = {"f32": (0, "F32"), "f16": (1, "F16"), "bf16": (32, "BF16"), "q8_0": (7, "Q8_0")}
    for outtype, (number, kind) in kinds.items():
        with GGUFFile.open(convert_checkpoint(source, tmp_path / "out.gguf", outtype)) as file:
            assert file.metadata["general.file_type"] == number
            assert file.tensors["token_embd.weight"].type.name == kind
            assert file.tensors["output_norm.weight"].type is GGMLType.F32
