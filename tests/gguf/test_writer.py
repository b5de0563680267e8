"""What the writer writes, read by the gguf package and by our own reader."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from densecore.exceptions import DenseCoreError, InvalidConfigError
from densecore.gguf import GGMLType, GGUFFile, GGUFWriter
from densecore.gguf.temporary import claim
from densecore.gguf.types import ValueType
from tests.gguf.test_reader import assert_same_as_oracle
from tests.gguf_factory import make_model

TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q6_K"]
EXTREMES = {
    kind: (np.iinfo(kind.dtype).min, np.iinfo(kind.dtype).max)
    for kind in ValueType
    if kind.name.startswith(("INT", "UINT"))
}


def write_pairs(path: Path, **pairs) -> GGUFFile:
    writer = GGUFWriter(path)
    for key, arguments in pairs.items():
        writer.add_metadata(key, *arguments)
    return GGUFFile.open(writer.write()[0])


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tensor_type", TYPES)
def test_model_of_every_type(tmp_path, arch, tensor_type):
    dim = 256 if tensor_type.endswith("_K") else 64
    path = make_model(tmp_path / "model.gguf", arch, dim=dim, hidden_dim=dim, n_layers=1, tensor_type=tensor_type)
    assert_same_as_oracle(path)
    with GGUFFile.open(path) as file:
        assert file.tensors["output.weight"].type is GGMLType[tensor_type]
        assert file.tensors["output_norm.weight"].type is GGMLType.F32


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 64, 4096])
def test_version_and_alignment(tmp_path, version, alignment):
    path = make_model(tmp_path / "model.gguf", version=version, alignment=alignment, vocab="gpt2")
    assert_same_as_oracle(path)
    with GGUFFile.open(path) as file:
        assert (file.version, file.alignment) == (version, alignment)
        assert all(tensor.offset % alignment == 0 for tensor in file.tensors.values())


@pytest.mark.parametrize("kind", EXTREMES, ids=lambda kind: kind.name)
def test_integers_keep_their_extremes(tmp_path, kind):
    low, high = EXTREMES[kind]
    with write_pairs(tmp_path / "m.gguf", a=(low, kind), b=(high, kind), c=([low, high], kind)) as file:
        assert (file.metadata["a"], file.metadata["b"]) == (low, high)
        assert file.metadata["c"].tolist() == [low, high]
        assert file.metadata["c"].dtype == kind.dtype
    assert_same_as_oracle(file.path)


@pytest.mark.parametrize(
    ("value", "kind", "read"),
    [
        (1, ValueType.UINT32, 1),
        (-1, ValueType.INT32, -1),
        (1 << 32, ValueType.UINT64, 1 << 32),
        (-1 << 32, ValueType.INT64, -1 << 32),
        (1.5, ValueType.FLOAT32, 1.5),
        (np.float64(0.1), ValueType.FLOAT64, 0.1),
        (np.uint8(5), ValueType.UINT8, 5),
        (False, ValueType.BOOL, False),
        (np.bool_(True), ValueType.BOOL, True),
        ("na\u00efve \U0001f40d", ValueType.STRING, "na\u00efve \U0001f40d"),
        ("", ValueType.STRING, ""),
        (["a", "", "\u4e16"], ValueType.STRING, ["a", "", "\u4e16"]),
        ([1, -2], ValueType.INT32, [1, -2]),
        ([1, 1 << 31], ValueType.UINT32, [1, 1 << 31]),
        ((0.5, 1.0), ValueType.FLOAT32, [0.5, 1.0]),
        ([True, False], ValueType.BOOL, [True, False]),
        (np.array([7], np.int16), ValueType.INT16, [7]),
    ],
)
def test_type_follows_from_the_value(tmp_path, value, kind, read):
    with write_pairs(tmp_path / "m.gguf", key=(value,)) as file:
        result = file.metadata["key"]
        assert (result.tolist() if isinstance(result, np.ndarray) else result) == read
        assert file.metadata.value_type("key") is kind
    assert_same_as_oracle(file.path)


@pytest.mark.parametrize("kind", [ValueType.STRING, ValueType.FLOAT32, ValueType.BOOL], ids=lambda kind: kind.name)
def test_empty_array_with_a_type(tmp_path, kind):
    with write_pairs(tmp_path / "m.gguf", key=([], kind)) as file:
        assert len(file.metadata["key"]) == 0
        assert file.metadata.value_type("key") is kind


def test_empty_numpy_array_has_a_type(tmp_path):
    with write_pairs(tmp_path / "m.gguf", key=(np.array([], np.int16),)) as file:
        assert file.metadata["key"].dtype == np.int16


def test_later_value_replaces_an_earlier_one(tmp_path):
    writer = GGUFWriter(tmp_path / "m.gguf")
    writer.add_metadata("key", 1)
    writer.add_metadata("key", "two")
    with GGUFFile.open(writer.write()[0]) as file:
        assert dict(file.metadata) == {"key": "two"}


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("", 1, None),
        ("k" * 65536, 1, None),
        ("split.no", 1, None),
        ("general.alignment", 32, None),
        ("key", None, None),
        ("key", 1j, None),
        ("key", 1 << 64, None),
        ("key", [], None),
        ("key", [[1]], None),
        ("key", [1, "a"], None),
        ("key", np.zeros((2, 2)), None),
        ("key", np.array([1j]), None),
        ("key", "lone \ud800", None),
        ("key", 256, ValueType.UINT8),
        ("key", -1, ValueType.UINT64),
        ("key", 0.5, ValueType.INT32),
        ("key", 2, ValueType.BOOL),
        ("key", 1e300, ValueType.FLOAT32),
        ("key", "7", ValueType.UINT32),
        ("key", True, ValueType.UINT32),
        ("key", np.array([1.5]), ValueType.INT32),
        ("key", 7, ValueType.STRING),
        ("key", [1], ValueType.ARRAY),
    ],
)
def test_metadata_that_gguf_cannot_hold_is_refused(tmp_path, key, value, kind):
    with pytest.raises(InvalidConfigError, match="allowed"):
        GGUFWriter(tmp_path / "m.gguf").add_metadata(key, value, kind)


@pytest.mark.parametrize(
    ("array", "shape", "kind"),
    [
        (np.zeros((2, 3), np.float32), (3, 2), GGMLType.F32),
        (np.zeros((2, 3, 4, 5), np.float16), (5, 4, 3, 2), GGMLType.F16),
        (np.zeros(3, np.int8), (3,), GGMLType.I8),
        (np.zeros((4, 6), np.float64)[:, ::2], (3, 4), GGMLType.F64),
    ],
    ids=["f32", "f16 of 4 dimensions", "i8", "f64 with gaps"],
)
def test_tensor_of_numbers(tmp_path, array, shape, kind):
    writer = GGUFWriter(tmp_path / "m.gguf")
    writer.add_tensor("t", array)
    with GGUFFile.open(writer.write()[0]) as file:
        assert (file.tensors["t"].shape, file.tensors["t"].type) == (shape, kind)
        assert file.tensor_data("t").tobytes() == array.tobytes()


def test_rows_of_blocks_tell_their_shape(tmp_path):
    rows = gguf.quants.quantize(np.ones((3, 64), np.float32), gguf.GGMLQuantizationType.Q4_0)
    writer = GGUFWriter(tmp_path / "m.gguf")
    writer.add_tensor("rows", rows, GGMLType.Q4_0)
    writer.add_tensor("bytes", rows.tobytes(), GGMLType.Q4_0, (64, 3))
    with GGUFFile.open(writer.write()[0]) as file:
        assert file.tensors["rows"].shape == file.tensors["bytes"].shape == (64, 3)
        assert file.tensor_data("rows").tobytes() == file.tensor_data("bytes").tobytes() == rows.tobytes()


ONES = np.ones(32, np.float32)


@pytest.mark.parametrize(
    "arguments",
    [
        ("taken", ONES),
        ("", ONES),
        ("n" * 65, ONES),
        ("t", ONES.view(np.uint8)),
        ("t", ONES, GGMLType.F16),
        ("t", ONES.astype(complex)),
        ("t", ONES, None, (31,)),
        ("t", ONES, None, ()),
        ("t", ONES, None, (32, 0)),
        ("t", ONES, None, (1, 1, 1, 1, 32)),
        ("t", np.float32(1)),
        ("t", ONES[:0]),
        ("t", bytes(18), GGMLType.Q4_0, (16,)),
        ("t", bytes(17), GGMLType.Q4_0, (32,)),
        ("t", bytes(19), GGMLType.Q4_0),
    ],
)
def test_tensor_that_gguf_cannot_hold_is_refused(tmp_path, arguments):
    writer = GGUFWriter(tmp_path / "m.gguf")
    writer.add_tensor("taken", ONES)
    with pytest.raises(InvalidConfigError, match=r"tensor .*; allowed"):
        writer.add_tensor(*arguments)


@pytest.mark.parametrize("arguments", [{"version": 1}, {"version": 4}, {"alignment": 0}, {"alignment": 48}])
def test_format_that_no_reader_knows_is_refused(tmp_path, arguments):
    with pytest.raises(InvalidConfigError, match="allowed"):
        GGUFWriter(tmp_path / "m.gguf", **arguments)


def test_new_file_replaces_the_old_one(tmp_path):
    path = make_model(tmp_path / "model.gguf", seed=1)
    with GGUFFile.open(path) as old:
        make_model(path, seed=2)
        with GGUFFile.open(path) as new:
            assert old.tensor_data("output.weight").tobytes() != new.tensor_data("output.weight").tobytes()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("function", ["fsync", "replace"])
@pytest.mark.parametrize("n_parts", [1, 3])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, function, n_parts):
    path = tmp_path / "model.gguf"
    targets = [make_model(path)]
    if n_parts > 1:
        make_model(path, n_parts=n_parts)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, function, full)
    with pytest.raises(DenseCoreError, match=r"model\.gguf: cannot write the file: No space left"):
        make_model(path, seed=5, n_parts=n_parts)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert targets[0] in before


def test_folder_that_cannot_be_written_is_a_clean_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "missing" / "m.gguf", tmp_path / "file" / "m.gguf", tmp_path / ("n" * 250)):
        with pytest.raises(DenseCoreError, match="cannot write the file"):
            GGUFWriter(path).write()


@pytest.mark.skipif(os.name == "nt", reason="nothing is locked there")
def test_what_killed_processes_left_is_removed(tmp_path):
    """Not what is locked, is young, or has another name."""
    killed, written, young, other = (
        tmp_path / name
        for name in (
            ".m.gguf.0123abcd.tmp",
            ".m.gguf.0123abce.tmp",
            ".m.gguf.0123abcf.tmp",
            ".mm.gguf.0123abcd.tmp",
        )
    )
    for path in (killed, written, young, other):
        path.write_bytes(b"half")
        if path is not young:
            os.utime(path, (1, 1))
    with open(written, "rb+") as file:
        claim(file)
        GGUFWriter(tmp_path / "m.gguf").write()
        assert {path.name for path in tmp_path.iterdir()} == {"m.gguf", written.name, young.name, other.name}
    GGUFWriter(tmp_path / "m.gguf").write()
    assert not written.exists()
