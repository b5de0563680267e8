"""The compile cache within one process: what it loads, what it refuses to load, what it reports."""

from __future__ import annotations

import contextlib
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numba
import pytest

from densecore.kernels import cache_key, kernel_cache, progress
from densecore.kernels.cache import NotCompiled, collect_needed, compile_progress, kernel, num_compiled

from .demo_kernels import cache_files, compilations


def test_second_declaration_loads_what_the_first_compiled(demo: ModuleType) -> None:
    assert compilations(demo.inner.py_func, 1) == (1, 2)
    assert compilations(demo.inner.py_func, 1) == (0, 2)
    assert compilations(demo.inner.py_func, 1.5) == (1, 2.5), "another type, another file"
    assert compilations(demo.inner.py_func, 1) == (0, 2)
    assert len(cache_files()) == 2


def test_directories_and_files_are_private(demo: ModuleType, tmp_path: Path) -> None:
    compilations(demo.inner.py_func, 1)
    for path in (tmp_path / "cache").rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_variables_of_the_enclosing_function_tell_kernels_apart(demo: ModuleType) -> None:
    first, second = demo.make(1).py_func, demo.make(2).py_func
    assert [compilations(first, 0), compilations(second, 0)] == [(1, 1), (1, 2)]
    assert [compilations(first, 0), compilations(second, 0)] == [(0, 1), (0, 2)]


def test_options_tell_kernels_apart(demo: ModuleType) -> None:
    signature = (numba.int64,)
    plain = cache_key.file_stem(demo.inner.py_func, {}, signature)
    fast = cache_key.file_stem(demo.inner.py_func, {"fastmath": {"contract", "nsz"}}, signature)
    assert plain is not None
    assert fast == cache_key.file_stem(demo.inner.py_func, {"fastmath": {"nsz", "contract"}}, signature)
    assert plain != fast


def test_functions_without_a_stable_name_are_not_kept(demo: ModuleType) -> None:
    types = (numba.typeof(demo.inner),)  # the type of a function is named by its address
    assert cache_key.file_stem(demo.inner.py_func, {}, types) is None
    assert cache_key.file_stem(demo.make(object()).py_func, {}, (numba.int64,)) is None
    assert cache_key.file_stem(compilations, {}, (numba.int64,)) is None, "a function of another package"


def test_cache_can_be_turned_off(demo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DENSECORE_CACHE", "off")
    assert [compilations(demo.inner.py_func, 1) for _ in range(2)] == [(1, 2), (1, 2)]
    assert not (tmp_path / "cache").exists()


# ---- files that must not load ----


class Planted:
    """A pickle that leaves a trace when it is loaded."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


def flip(position: int) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[position] ^= 0x10
        path.write_bytes(content)

    return damage


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def plant(prefix: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(prefix + pickle.dumps(Planted(path.parents[3] / "trace")))


def hold_other_signature(path: Path) -> None:
    _, reduced = pickle.loads(kernel_cache.read_payload(path))
    kernel_cache.write_payload(path, pickle.dumps(((numba.float32,), reduced)))


def link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


DAMAGES = {
    "flipped bit in the magic": flip(0),
    "flipped bit in the digest": flip(20),
    "flipped bit in the payload": flip(60),
    "flipped bit in the last byte": flip(-1),
    "cut in the payload": cut(3000),
    "cut in the digest": cut(30),
    "empty": cut(0),
    "bare pickle": plant(b""),
    "pickle behind a wrong digest": plant(b"densecore-kern1\n" + bytes(32)),
    "whole, of another signature": hold_other_signature,
    "writable by others": lambda path: path.chmod(0o666),
    "symbolic link": link,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_bad_file_is_not_loaded_and_replaced(demo: ModuleType, tmp_path: Path, damage: Callable) -> None:
    compilations(demo.inner.py_func, 1)
    [path] = cache_files()
    damage(path)
    assert compilations(demo.inner.py_func, 1) == (1, 2)
    assert not (tmp_path / "trace").exists(), "a planted pickle was loaded"
    assert not path.is_symlink()
    assert compilations(demo.inner.py_func, 1) == (0, 2)


def test_file_of_another_kernel_is_not_loaded(demo: ModuleType) -> None:
    compilations(demo.inner.py_func, 1)
    [inner] = cache_files()
    compilations(demo.outer.py_func, 1)
    [outer] = set(cache_files()) - {inner}
    shutil.copyfile(inner, outer)
    assert compilations(demo.outer.py_func, 1) == (1, 20)


def test_file_of_another_user_is_refused(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, fresh_cache: Callable
) -> None:
    compilations(demo.inner.py_func, 1)
    [path] = cache_files()
    kernel_cache.read_payload(path)
    owner = path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(PermissionError, match=f"belongs to user {owner}"):
        kernel_cache.read_payload(path)


# ---- progress ----


def test_progress_reports_outermost_compilations(demo: ModuleType) -> None:
    seen: list[tuple[str, int]] = []
    with compile_progress(lambda name, count: seen.append((name, count))):
        compilations(demo.outer.py_func, 1)
        compilations(demo.outer.py_func, 1)
        compilations(demo.outer.py_func, 1.0)
    compilations(demo.outer.py_func, numba.float32(1.0))
    numba.njit(lambda x: x)(1)
    assert seen == [("outer", 1), ("outer", 2)]


def test_progress_of_a_kernel_that_does_not_compile(demo: ModuleType) -> None:
    seen: list[str] = []
    with compile_progress(lambda name, count: seen.append(name)):
        with contextlib.suppress(numba.TypingError):
            compilations(demo.outer.py_func, "text")
        compilations(demo.outer.py_func, 2)
    assert seen == ["outer", "outer"]


def test_progress_counts_what_other_processes_compile(demo: ModuleType) -> None:
    seen: list[tuple[str, int, int | None]] = []
    before = progress.num_compiled_elsewhere()
    with compile_progress(lambda name, count: seen.append((name, count, progress.num_remaining()))):
        with progress.expecting(2):
            progress.started_elsewhere("other")
            compilations(demo.outer.py_func, 1)
            progress.started_elsewhere("unforeseen")
        progress.started_elsewhere("later")
    assert seen == [("other", 1, 1), ("outer", 2, 0), ("unforeseen", 3, 0), ("later", 4, None)]
    progress.compiled_elsewhere(2)
    assert progress.num_compiled_elsewhere() - before == 2


def test_what_would_be_compiled_is_collected_instead(demo: ModuleType) -> None:
    compilations(demo.outer.py_func, 1)
    files, before = cache_files(), num_compiled()
    kept, lacking = kernel(demo.outer.py_func), kernel(demo.outer.py_func)
    with collect_needed() as needed:
        assert kept(1) == 20, "what the cache holds works as ever"
        for _ in range(2):
            with pytest.raises(NotCompiled):
                lacking(1.5)
        elsewhere = threading.Thread(target=lambda: seen.append(kernel(demo.inner.py_func)(1.5)))
        seen: list[float] = []
        elsewhere.start()
        elsewhere.join()
    assert seen == [2.5], "other threads compile"
    assert num_compiled() - before == 1
    [compilation] = needed.values()
    assert compilation.name not in {path.name for path in files}
    assert compilation.description.startswith("outer (float64")
    compilation.compile()
    assert num_compiled() - before == 2
    assert compilation.name in {path.name for path in cache_files()}
    assert lacking(1.5) == 25.0
