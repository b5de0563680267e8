"""Programs in C, each in a process of its own: hostile, with many threads, as guests, and with two libraries."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

import pytest

from densecore.capi.build import cflags, libs
from densecore.capi.libpython import shared_libpython
from densecore.data import builtin_model_path

from .conftest import HERE, Run, compile_program, run_program


def test_ten_thousand_hostile_calls(run: Run) -> None:
    done = run("hostile", sanitized=True)
    assert (done.stdout, done.returncode) == ("all as it should be\n", 0), done.stderr


def test_eight_threads_submit_500_requests(run: Run) -> None:
    """To four engines, one after the other: nothing of the memory of an engine, Python's included, is left over.

    What is set up once is not counted: that is most of the first round, and some kB for each number of requests in a
    step that is seen for the first time, which may come in any. So the round that adds least tells.
    """
    done = run("threads", sanitized=True, PYTHONMALLOC="malloc")
    assert done.returncode == 0, done.stderr
    rounds = [line.rsplit(", ", 1) for line in done.stdout.splitlines()]
    assert [state for state, _ in rounds] == ["500 complete, 0 blocks used"] * 4
    growth = [int(text.split()[0]) for _, text in rounds[1:]]
    print(growth)
    assert min(growth) < 500 * 200


def test_signals_fork_and_an_early_end(run: Run) -> None:
    done = run("guest")
    assert (done.stdout, done.stderr, done.returncode) == ("child 7\n", "", 0)


@pytest.mark.parametrize("hidden", [False, True], ids=["starting", "joining a hidden one"])
def test_two_libraries(run: Run, library: Path, tmp_path: Path, *, hidden: bool) -> None:
    copy = shutil.copy(library / "libdensecore.so", tmp_path / "libcopy.so")
    arguments = [library / "libdensecore.so", copy, *([shared_libpython()] if hidden else [])]
    (tmp_path / "sitecustomize.py").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})")
    done = run("twice", *arguments, PYTHONPATH=str(tmp_path))
    assert (done.stdout, done.stderr, done.returncode) == ("code 0, text, again there\n", "", 0)


def test_a_path_is_taken_byte_by_byte(library: Path, tmp_path: Path) -> None:
    (tmp_path / "ü.gguf").symlink_to(builtin_model_path())
    program = compile_program(HERE / "guest.c", tmp_path / "guest", *f"{cflags(library)} {libs(library)}".split())
    done = run_program(program, tmp_path / "ü.gguf", LC_ALL="C")
    assert (done.stdout, done.returncode) == ("child 7\n", 0)


def test_no_shared_libpython(run: Run, tmp_path: Path) -> None:
    """A Python that says of itself that it was built without one."""
    (tmp_path / "static_build.py").write_text("build_time_vars = {'LDLIBRARY': 'libpython3.a', 'LIBDIR': '/usr/lib'}")
    done = run("guest", PYTHONPATH=str(tmp_path), _PYTHON_SYSCONFIGDATA_NAME="static_build")
    assert "has no shared libpython" in done.stdout
    assert "--enable-shared" in done.stdout


def test_a_program_that_is_no_python(run: Run) -> None:
    done = run("guest", DENSECORE_PYTHON="/bin/false")
    assert done.stdout.startswith("/bin/false is no Python that DenseCore is installed in")
