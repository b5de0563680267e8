"""Broken files are refused with words, in a process that would show a crash, a hang, or a hunger for memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.broken_files import FileOpener, check_refused
from tests.gguf.broken_cases import CASES
from tests.gguf.raw_file import ARRAY, STRING, build, pair, u32, u64

LOADER = "densecore.gguf:GGUFFile.open"
MEMORY = 16 << 20  # bytes that opening a file of some kilobytes may take at most


@pytest.fixture(scope="module")
def opener():
    with FileOpener(LOADER) as opener:
        yield opener


def test_enough_cases():
    assert len(CASES) >= 150
    assert len({case.content for case in CASES.values()}) == len(CASES)


def test_base_file_is_valid(opener, tmp_path):
    path = tmp_path / "valid.gguf"
    path.write_bytes(build())
    assert opener.open(path).kind == "opened"


@pytest.mark.parametrize("name", CASES)
def test_refused(opener, tmp_path, name):
    path = tmp_path / "broken.gguf"
    path.write_bytes(CASES[name].content)
    outcome = opener.open(path)
    check_refused(outcome, str(path), *CASES[name].words)
    assert outcome.peak_bytes < MEMORY


def test_every_cut_of_a_valid_file_is_refused(opener, tmp_path):
    whole = build()
    path = tmp_path / "cut.gguf"
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        check_refused(opener.open(path), "cut.gguf")


def special_files(folder: Path) -> dict[str, tuple[Path, str]]:
    fifo, loop, dangling = folder / "fifo", folder / "loop", folder / "dangling"
    os.mkfifo(fifo)
    loop.symlink_to(loop)
    dangling.symlink_to(folder / "gone")
    return {
        "missing": (folder / "missing.gguf", "no such file"),
        "in a missing folder": (folder / "missing" / "model.gguf", "no such file"),
        "directory": (folder, "directory"),
        "named pipe": (fifo, "not a regular file"),
        "device": (Path("/dev/zero"), "not a regular file"),
        "link to itself": (loop, "cannot open"),
        "dangling link": (dangling, "no such file"),
        "name too long": (folder / ("n" * 300), "cannot open"),
        "null in the name": (folder / "a\0b", "cannot open"),
        "line break in the name": (folder / "a\nb.gguf", "no such file"),
    }


def test_what_is_no_file_is_refused(opener, tmp_path):
    for path, word in special_files(tmp_path).values():
        check_refused(opener.open(path), word)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file_is_refused(opener, tmp_path):
    path = tmp_path / "secret.gguf"
    path.write_bytes(build())
    path.chmod(0)
    check_refused(opener.open(path), "permission denied")


@pytest.mark.parametrize(("prefix", "word"), [(b"", "array length"), (b"\0", "magic")], ids=["gguf", "zeros"])
def test_huge_sparse_file_is_refused_at_once(tmp_path, prefix, word):
    """A file of 64 GB that takes no space on the disk: an array of empty strings, as its holes read."""
    path = tmp_path / "sparse.gguf"
    path.write_bytes(prefix + build([pair("k", ARRAY, u32(STRING) + u64((1 << 33) - 100))], [], b""))
    os.truncate(path, 1 << 36)
    with FileOpener(LOADER, memory=None) as opener:
        outcome = opener.open(path)
    check_refused(outcome, word)
    assert outcome.peak_bytes < MEMORY


def test_lack_of_memory_is_refused(tmp_path):
    """A string of 50 MB, where the process may take 80 MB and the map of the file already takes 50."""
    path = tmp_path / "large.gguf"
    path.write_bytes(build([pair("k", STRING, u64(50 << 20))], [], b""))
    os.truncate(path, (50 << 20) + 100)
    with FileOpener(LOADER, memory=80 << 20) as opener:
        check_refused(opener.open(path), "not enough memory")


@pytest.mark.parametrize(
    ("name", "kind", "word"),
    [
        ("open", "opened", ""),
        ("refuse", "refused", "PickyError"),
        ("raise", "raised", "IndexError"),
        ("exit", "raised", "SystemExit"),
        ("die", "died", "exit status -6"),
        ("hang", "hung", "no answer"),
        ("starve", "raised", "MemoryError"),
    ],
)
def test_harness_tells_what_came_of_it(name, kind, word):
    with FileOpener("tests.gguf.bad_loaders:misbehaves", timeout=0.5) as opener:
        outcome = opener.open(Path("folder") / name)
        assert (outcome.kind, opener.open("open").kind) == (kind, "opened")
        assert word in outcome.error
        if kind != "refused":
            with pytest.raises(AssertionError):
                check_refused(outcome)


def test_harness_measures_memory_and_reads_messages():
    with FileOpener("tests.gguf.bad_loaders:misbehaves") as opener:
        assert opener.open("eat").peak_bytes > 60 << 20
        assert opener.open("open").peak_bytes < MEMORY
        with pytest.raises(AssertionError, match="not one readable line"):
            check_refused(opener.open("two lines"), "wrong")
        with pytest.raises(AssertionError, match="'left'"):
            check_refused(opener.open("refuse"), "wrong", "left")
