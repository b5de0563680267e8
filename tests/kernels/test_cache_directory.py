"""The compile cache's directory: where it lies, when it is refused, what its name depends on, pruning."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
import pytest

from densecore.kernels import cache_directory, cache_key
from densecore.kernels.cache import CompileCacheWarning

from .demo_kernels import cache_files, compilations


def occupy(path: Path) -> None:
    path.write_text("a file, where a directory should be")


def open_to_others(path: Path) -> None:
    path.mkdir()
    path.chmod(0o777)


@pytest.mark.parametrize("prepare", [occupy, open_to_others])
def test_unusable_directory_costs_one_warning(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable
) -> None:
    prepare(tmp_path / "cache")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with pytest.warns(CompileCacheWarning, match="DENSECORE_CACHE_DIR") as caught:
        assert compilations(demo.inner.py_func, 1) == (1, 2)
    assert len(caught) == 1
    assert compilations(demo.inner.py_func, 1) == (0, 2), "kept in the temporary directory"
    [root] = (tmp_path / "tmp").iterdir()
    assert root.name == f"densecore-{os.geteuid()}"
    assert root.stat().st_mode & 0o777 == 0o700


def plant_link(path: Path) -> None:
    elsewhere = path.with_name("elsewhere")
    elsewhere.mkdir(mode=0o700)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize("plant_root", [occupy, open_to_others, plant_link])
def test_planted_temporary_directory_is_not_used(
    demo: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant_root: Callable
) -> None:
    occupy(tmp_path / "cache")
    (tmp_path / "tmp").mkdir()
    plant_root(tmp_path / "tmp" / f"densecore-{os.geteuid()}")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    with pytest.warns(CompileCacheWarning, match="cannot be kept") as caught:
        results = [compilations(demo.inner.py_func, 1) for _ in range(2)]
    assert results == [(1, 2), (1, 2)]
    assert len(caught) == 1
    assert not list((tmp_path / "tmp").rglob("*.kernel"))


def test_missing_home_falls_back(fresh_cache: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DENSECORE_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.warns(CompileCacheWarning, match="home directory"):
        directory = cache_directory.cache_directory()
    assert directory is not None
    assert directory.is_relative_to(tmp_path)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DENSECORE_CACHE_DIR": "/a/b", "XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/h"}, "/x/densecore"),
        ({"XDG_CACHE_HOME": "relative", "HOME": "/h"}, "/h/.cache/densecore"),
        ({"XDG_CACHE_HOME": "", "HOME": "/h"}, "/h/.cache/densecore"),
        ({"DENSECORE_CACHE_DIR": "~/own", "HOME": "/h"}, "/h/own"),
    ],
    ids=["own variable", "XDG", "relative XDG", "home", "tilde"],
)
def test_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, variables: dict, expected: str) -> None:
    for name in ("DENSECORE_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_directory._user_root() == Path(expected)


def test_failed_write_costs_one_warning(demo: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*arguments: object, **keywords: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.warns(CompileCacheWarning, match="No space left") as caught:
        results = [compilations(demo.inner.py_func, 1) for _ in range(2)]
    assert results == [(1, 2), (1, 2)]
    assert len(caught) == 1
    assert not cache_files(), "no temporary file stays behind"


def test_directory_pruned_under_a_running_process(demo: ModuleType) -> None:
    directory = cache_directory.cache_directory()
    assert directory is not None
    directory.rmdir()
    assert [compilations(demo.inner.py_func, 1) for _ in range(2)] == [(1, 2), (0, 2)]


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        (lambda m: m.setenv("DENSECORE_ISA", "portable"), True),
        (lambda m: m.setattr(numba.config, "BOUNDSCHECK", int(not numba.config.BOUNDSCHECK)), True),
        (lambda m: m.setattr(numba.config, "CPU_NAME", "generic"), True),
        (lambda m: m.setattr(numba, "__version__", "0.0"), True),
        (lambda m: m.setattr(numba.config, "NUMBA_NUM_THREADS", 99), False),
        (lambda m: m.setattr(numba.config, "THREADING_LAYER", "tbb"), False),
    ],
    ids=["ISA", "bounds checks", "CPU name", "numba version", "threads", "threading layer"],
)
def test_key_follows_what_changes_the_code(
    fresh_cache: Callable, monkeypatch: pytest.MonkeyPatch, change: Callable, is_other: bool
) -> None:
    monkeypatch.delenv("DENSECORE_ISA", raising=False)
    before = cache_key.directory_key()
    change(monkeypatch)
    fresh_cache()
    assert (cache_key.directory_key() != before) is is_other


def test_old_directories_are_pruned(demo: ModuleType, tmp_path: Path) -> None:
    kernels = tmp_path / "cache" / "kernels"
    kernels.mkdir(parents=True, mode=0o700)
    now = time.time()
    for number in range(20):
        age = 31 * 24 * 3600 if number == 3 else number * 60
        make_key_directory(kernels / f"{number:032x}", now - age)
    make_key_directory(kernels / "something else", 0)
    (kernels / ("f" * 32)).symlink_to(tmp_path / "package")
    compilations(demo.inner.py_func, 1)
    left = {path.name for path in kernels.iterdir()} - {cache_directory.cache_directory().name}
    expected = {f"{number:032x}" for number in range(16) if number != 3} | {"something else", "f" * 32}
    assert left == expected
    assert (tmp_path / "package" / "cache_test_demo.py").exists()


def make_key_directory(path: Path, last_use: float) -> None:
    path.mkdir()
    (path / "some.kernel").write_bytes(b"x")
    os.utime(path, (last_use, last_use))


def test_what_killed_processes_left_is_deleted(demo: ModuleType, fresh_cache: Callable) -> None:
    directory = cache_directory.cache_directory()
    assert directory is not None
    old = time.time() - 7200
    for name, last_use in {".a.tmp": old, ".b.tmp": time.time(), "c.kernel": old}.items():
        (directory / name).write_bytes(b"x")
        os.utime(directory / name, (last_use, last_use))
    os.utime(directory, (old, old))
    fresh_cache()
    assert cache_directory.cache_directory() == directory
    assert {path.name for path in directory.iterdir()} == {".b.tmp", "c.kernel"}
