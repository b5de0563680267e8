"""The reader on files of other authors, against the gguf package's reader."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from densecore.exceptions import ModelLoadError
from densecore.gguf import GGUFFile, GGUFWriter
from tests.conftest import shared_path
from tests.gguf.raw_file import DATA, build
from tests.gguf_factory import make_model

MODELS = ["pystd-6m-f16", "pystd-6m-q8_0", "stories260K", "tiny-llama-f32", "tiny-qwen2-Q4_K_M",
          "tiny-qwen2-f32", "tiny-qwen3-f32"]  # fmt: skip
ARCHS = ["bert", "deepseek2", "gemma2", "gpt-oss", "mixtral", "phi3", "qwen3moe", "starcoder2"]
SMALL = [f"models/{name}.gguf" for name in MODELS] + [f"archs/{name}-f32.gguf" for name in ARCHS]
VOCABS = [f"vocabs/ggml-vocab-{name}.gguf" for name in ("bert-bge", "gpt-2", "llama-bpe", "llama-spm", "qwen2")]


def assert_same_as_oracle(path: Path) -> None:
    """Metadata and tensor bytes as the gguf package reads them."""
    oracle = gguf.GGUFReader(path)
    with GGUFFile.open(path) as file:
        fields = {key: field for key, field in oracle.fields.items() if not key.startswith("GGUF.")}
        assert list(file.metadata) == list(fields)
        for key, field in fields.items():
            value = file.metadata[key]
            assert file.metadata.value_type(key) == field.types[-1]
            assert (value.tolist() if isinstance(value, np.ndarray) else value) == field.contents()
        assert list(file.tensors) == [tensor.name for tensor in oracle.tensors]
        for theirs in oracle.tensors:
            ours = file.tensors[theirs.name]
            assert ours.shape == tuple(theirs.shape.tolist())
            assert (ours.type, ours.n_bytes, ours.n_elements) == (
                theirs.tensor_type, theirs.n_bytes, theirs.n_elements
            )  # fmt: skip
            assert ours.offset == theirs.data_offset
            assert np.array_equal(file.tensor_data(theirs.name), theirs.data.reshape(-1).view(np.uint8))


@pytest.mark.parametrize("name", [*SMALL, "vocabs/ggml-vocab-bert-bge.gguf"])
def test_shared_file_reads_as_the_gguf_package_reads_it(name):
    assert_same_as_oracle(shared_path(*name.split("/")))


@pytest.mark.parametrize("name", [*SMALL, *VOCABS])
def test_shared_file_is_written_again_byte_for_byte(name, tmp_path):
    """Nothing of a file is lost or changed in reading: what was read makes the same file."""
    path = shared_path(*name.split("/"))
    with GGUFFile.open(path) as file:
        writer = GGUFWriter(tmp_path / "copy.gguf", version=file.version)
        for key, value in file.metadata.items():
            writer.add_metadata(key, value, file.metadata.value_type(key))
        for tensor in file.tensors.values():
            writer.add_tensor(tensor.name, file.tensor_data(tensor.name), tensor.type, tensor.shape)
        copy = writer.write()[0].read_bytes()
    assert copy.rstrip(b"\0") == path.read_bytes().rstrip(b"\0")  # padding at the end is optional


@pytest.mark.parametrize(
    ("name", "n_tokens", "n_merges", "samples"),
    [
        (
            "llama-bpe",
            128256,
            280147,
            {0: "!", 128000: "<|begin_of_text|>", 128255: "<|reserved_special_token_250|>"},
        ),
        ("qwen2", 151936, 151387, {0: "!", 151643: "<|endoftext|>", 151935: "[PAD151935]"}),
        ("gpt-2", 50257, 50000, {0: "!", 262: "\u0120the", 50256: "<|endoftext|>"}),
        ("llama-spm", 32000, 0, {0: "<unk>", 259: "\u2581\u2581", 31999: "\u7ed9"}),
    ],
)
def test_large_vocabulary(name, n_tokens, n_merges, samples):
    with GGUFFile.open(shared_path("vocabs", f"ggml-vocab-{name}.gguf")) as file:
        tokens = file.metadata.strings("tokenizer.ggml.tokens")
        assert len(tokens) == n_tokens
        assert len(file.metadata.strings("tokenizer.ggml.merges", [])) == n_merges
        assert {index: tokens[index] for index in samples} == samples
        assert file.tensors == {}


@pytest.mark.parametrize("name", ["llama-bpe", "qwen2"])
def test_large_vocabulary_opens_within_a_second(name):
    path = shared_path("vocabs", f"ggml-vocab-{name}.gguf")
    spent = []
    for _ in range(3):
        start = time.process_time()
        GGUFFile.open(path).close()
        spent.append(time.process_time() - start)
    assert min(spent) < 1.0


@pytest.mark.parametrize("version", [2, 3])
def test_file_put_together_by_hand(tmp_path, version):
    path = tmp_path / "model.gguf"
    path.write_bytes(build(version=version))
    with GGUFFile.open(path) as file:
        assert file.version == version
        assert file.alignment == 32
        scores = file.metadata["test.scores"]
        assert scores.tolist() == [0.0, -1.0, -2.0]
        assert not scores.flags.writeable
        assert {key: value for key, value in file.metadata.items() if key != "test.scores"} == {
            "general.architecture": "llama",
            "test.u32": 7,
            "test.bool": True,
            "test.tokens": ["a", "b\u00e9", "\u4e16\u754c", ""],
        }
        assert {name: (info.shape, info.type.name, info.n_bytes) for name, info in file.tensors.items()} == {
            "a.weight": ((8, 4), "F32", 128),
            "b.weight": ((32, 2), "Q8_0", 68),
            "c.weight": ((3,), "F32", 12),
        }
        assert file.tensor_data("b.weight").tobytes() == DATA[128:196]


def test_file_without_anything_is_valid(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(build([], [], b""))
    with GGUFFile.open(path) as file:
        assert dict(file.metadata) == {}
        assert file.tensors == {}


@pytest.mark.parametrize("use_mmap", [True, False], ids=["mapped", "read"])
def test_tensor_data_are_read_only_views(tmp_path, use_mmap):
    path = make_model(tmp_path / "model.gguf")
    with GGUFFile.open(path, use_mmap=use_mmap) as file:
        data = file.tensor_data("output.weight")
        again = file.tensor_data("output.weight")
        assert (data.dtype, data.shape) == (np.uint8, (file.tensors["output.weight"].n_bytes,))
        assert np.shares_memory(data, again)
        assert not data.flags.owndata
        assert data.ctypes.data % 32 == 0
        with pytest.raises(ValueError, match="read-only"):
            data[0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            data.flags.writeable = True


@pytest.mark.parametrize("use_mmap", [True, False], ids=["mapped", "read"])
def test_views_outlive_the_file(tmp_path, use_mmap):
    path = make_model(tmp_path / "model.gguf")
    file = GGUFFile.open(path, use_mmap=use_mmap)
    data = file.tensor_data("output.weight")
    before = data.tobytes()
    file.close()
    file.close()
    with pytest.raises(ModelLoadError, match="closed"):
        file.tensor_data("output.weight")
    del file
    gc.collect()
    assert data.tobytes() == before


def test_file_that_is_read_may_change_later(tmp_path):
    path = make_model(tmp_path / "model.gguf")
    with GGUFFile.open(path, use_mmap=False) as file:
        before = file.tensor_data("output.weight").tobytes()
        path.write_bytes(b"")
        assert file.tensor_data("output.weight").tobytes() == before


def test_unknown_tensor_is_refused(tmp_path):
    with (
        GGUFFile.open(make_model(tmp_path / "model.gguf")) as file,
        pytest.raises(ModelLoadError, match=r"tensor 'blk\.9\.attn_q\.weight' is missing"),
    ):
        file.tensor_data("blk.9.attn_q.weight")


def test_nothing_heavy_is_imported():
    code = "import densecore.gguf, sys; sys.exit(bool({'numba', 'gguf', 'llvmlite'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_of_the_package():
    import densecore.gguf

    assert densecore.gguf.__all__ == ["GGMLType", "GGUFFile", "GGUFWriter", "Metadata", "TensorInfo"]
    assert all(hasattr(densecore.gguf, name) for name in densecore.gguf.__all__)


def flags_of_map(address: int) -> list[str]:
    """What Linux notes about the memory map in which an address lies."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        head = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if head:
            inside = int(head[1], 16) <= address < int(head[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError(f"no map holds {address:#x}")


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="a system without huge pages")
@pytest.mark.parametrize("use_mmap", [True, False])
def test_huge_pages_are_asked_for(tmp_path, use_mmap):
    with GGUFFile.open(make_model(tmp_path / "m.gguf"), use_mmap=use_mmap) as file:
        assert "hg" in flags_of_map(file.tensor_data("token_embd.weight").ctypes.data)
