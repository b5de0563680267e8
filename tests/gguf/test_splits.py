"""Models in several files: any part stands for the whole, and parts that do not belong together are refused."""

from __future__ import annotations

import os
from pathlib import Path

import gguf
import numpy as np
import pytest

from densecore.exceptions import InvalidConfigError, ModelLoadError
from densecore.gguf import GGUFFile, GGUFWriter
from tests.broken_files import FileOpener, check_refused
from tests.gguf.raw_file import STRING, U16, build, scalar, tensor
from tests.gguf.test_reader import assert_same_as_oracle
from tests.gguf_factory import make_model


@pytest.fixture(scope="module")
def opener():
    with FileOpener("densecore.gguf:GGUFFile.open") as opener:
        yield opener


@pytest.mark.parametrize("use_mmap", [True, False], ids=["mapped", "read"])
@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_part_opens_the_whole_model(tmp_path, opened, use_mmap):
    whole = GGUFFile.open(make_model(tmp_path / "model.gguf"))
    make_model(tmp_path / "model.gguf", n_parts=3)
    names = [f"model-{n:05d}-of-00003.gguf" for n in (1, 2, 3)]
    with whole, GGUFFile.open(tmp_path / names[opened], use_mmap=use_mmap) as file:
        assert [path.name for path in file.paths] == names
        assert file.path == tmp_path / names[opened]
        assert list(file.tensors) == list(whole.tensors)
        assert {tensor.part for tensor in file.tensors.values()} == {0, 1, 2}
        assert [key for key in file.metadata if not key.startswith("split.")] == list(whole.metadata)
        for name in whole.tensors:
            assert file.tensor_data(name).tobytes() == whole.tensor_data(name).tobytes()


def test_parts_as_the_gguf_package_reads_them(tmp_path):
    make_model(tmp_path / "model.gguf", n_parts=2, alignment=64)
    with GGUFFile.open(tmp_path / "model-00001-of-00002.gguf") as file:
        for index, path in enumerate(file.paths):
            oracle = gguf.GGUFReader(path)
            assert oracle.fields["split.no"].contents() == index
            assert oracle.fields["split.count"].contents() == 2
            assert oracle.fields["split.tensors.count"].contents() == len(file.tensors)
            for theirs in oracle.tensors:
                assert file.tensors[theirs.name].part == index
                assert np.array_equal(file.tensor_data(theirs.name), theirs.data.reshape(-1).view(np.uint8))


def test_parts_that_the_gguf_package_wrote(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", split_max_tensors=2, small_first_shard=True)
    arrays = {f"t{n}": np.full((n + 1, 4), n, np.float32) for n in range(5)}
    for name, array in arrays.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    first = tmp_path / "model-00001-of-00004.gguf"
    with GGUFFile.open(first) as file:
        assert len(file.paths) == 4
        assert {info.part for info in file.tensors.values()} == {1, 2, 3}
        for name, array in arrays.items():
            assert file.tensor_data(name).tobytes() == array.tobytes()


def test_links_find_the_parts_beside_the_link(tmp_path):
    """A download cache keeps the files elsewhere, under other names."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    make_model(blobs / "model.gguf", n_parts=2)
    for index, path in enumerate(sorted(blobs.iterdir())):
        (snapshot / path.name).symlink_to(path.rename(blobs / f"blob{index}"))
    with GGUFFile.open(snapshot / "model-00002-of-00002.gguf") as file:
        assert len(file.tensors) == 21


def test_more_parts_than_tensors(tmp_path):
    writer = GGUFWriter(tmp_path / "model.gguf")
    writer.add_tensor("only", np.ones(4, np.float32))
    paths = writer.write(3)
    with GGUFFile.open(paths[0]) as file:
        assert list(file.tensors) == ["only"]


@pytest.mark.parametrize("name", ["model-00001-of-00001.gguf", "model.gguf", "model-1-of-2.gguf"])
def test_model_in_one_file_may_have_any_name(tmp_path, name):
    assert_same_as_oracle(make_model(tmp_path / name))


def test_a_single_part_may_say_so(tmp_path):
    paths = GGUFWriter(tmp_path / "model.gguf").write(2)
    path = tmp_path / "single.gguf"
    path.write_bytes(build([scalar("split.no", U16, 0), scalar("split.count", U16, 1)], [], b""))
    with GGUFFile.open(path) as file:
        assert file.paths == (path,)
    assert len(paths) == 2


@pytest.mark.parametrize("n_parts", [0, -1, 100000])
def test_number_of_parts_is_checked(tmp_path, n_parts):
    with pytest.raises(InvalidConfigError, match="n_parts"):
        GGUFWriter(tmp_path / "m.gguf").write(n_parts)


def part(index: int, count: int, total: int, *names: str, skip: str = "") -> bytes:
    """A part by hand; `skip` names a key to leave out."""
    keys = {"split.no": index, "split.count": count, "split.tensors.count": total}
    pairs = [scalar(key, U16, value) for key, value in keys.items() if key != skip]
    table = [tensor(name, (8,), 0, 32 * n) for n, name in enumerate(names)]
    return build(pairs, table, bytes(32 * len(names)))


FIRST, SECOND = part(0, 2, 2, "a"), part(1, 2, 2, "b")
BROKEN = {
    "second part missing": ((FIRST,), "no such file"),
    "first part missing": ((None, SECOND), "no such file"),
    "second part empty": ((FIRST, b""), "empty"),
    "second part truncated": ((FIRST, SECOND[:-1]), "'b' data"),
    "parts swapped": ((SECOND, FIRST), "split.no"),
    "same part twice": ((FIRST, FIRST), "split.no"),
    "part of a longer model": ((FIRST, part(1, 3, 2, "b")), "split.count"),
    "both of a longer model": ((part(0, 3, 2, "a"), part(1, 3, 2, "b")), "split.count"),
    "no split.no": ((FIRST, part(1, 2, 2, "b", skip="split.no")), "split.no"),
    "no split.count": ((FIRST, part(1, 2, 2, "b", skip="split.count")), "split.count"),
    "no split.tensors.count": (
        (part(0, 2, 2, "a", skip="split.tensors.count"), SECOND),
        "split.tensors.count",
    ),
    "a tensor too few": ((part(0, 2, 3, "a"), part(1, 2, 3, "b")), "split.tensors.count"),
    "parts that disagree on tensors": ((FIRST, part(1, 2, 3, "b")), "split.tensors.count"),
    "tensor in both parts": ((FIRST, part(1, 2, 2, "a")), "tensor 'a'"),
    "split.no of the wrong type": ((build([scalar("split.no", STRING, "0")], [], b""), SECOND), "split."),
    "no split keys at all": ((build(), build()), "split.count"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_parts_that_do_not_fit_are_refused(opener, tmp_path, name):
    contents, word = BROKEN[name]
    paths = [tmp_path / f"model-{n:05d}-of-00002.gguf" for n in (1, 2)]
    for path, content in zip(paths, contents, strict=False):
        if content is not None:
            path.write_bytes(content)
    for path in paths:
        check_refused(opener.open(path), word)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("model.gguf", "split.count"),
        ("model-00003-of-00002.gguf", "file name"),
        ("model-00000-of-00002.gguf", "file name"),
        ("model-00001-of-00000.gguf", "file name"),
        ("model-00001-of-00001.gguf", "split.count"),
        ("model-00001-of-99999.gguf", "split.count"),
    ],
)
def test_part_under_a_wrong_name_is_refused(opener, tmp_path, name, word):
    path = tmp_path / name
    path.write_bytes(FIRST)
    check_refused(opener.open(path), word)


def test_message_says_how_parts_are_named(tmp_path):
    path = tmp_path / "renamed.gguf"
    path.write_bytes(FIRST)
    with pytest.raises(ModelLoadError, match=r"is 2; allowed: 1, or files named NAME-00001-of-00002\.gguf"):
        GGUFFile.open(path)


def test_files_are_let_go_after_a_failure(tmp_path):
    make_model(tmp_path / "model.gguf", n_parts=3)
    (tmp_path / "model-00003-of-00003.gguf").unlink()
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    for _ in range(5):
        with pytest.raises(ModelLoadError):
            GGUFFile.open(tmp_path / "model-00001-of-00003.gguf")
    after = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    assert after <= before + 3
