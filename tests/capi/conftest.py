"""The library, and programs of this folder that are compiled against it and run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from densecore.capi.build import FOLDER, build, cflags, libs
from densecore.data import builtin_model_path

HERE = Path(__file__).parent
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter")
SANITIZE = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
TIMEOUT = 240.0  # seconds; kernels may have to be compiled

Run = Callable[..., subprocess.CompletedProcess]

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


def has_sanitizer() -> bool:
    """Whether the compiler has its library for AddressSanitizer."""
    command = ["cc", "-fsanitize=address,undefined", "-x", "c", "-", "-o", os.devnull]
    return subprocess.run(command, input=b"int main(void){return 0;}", capture_output=True, check=False).returncode == 0


def compile_program(source: Path, target: Path, *arguments: str, compiler: str = "cc -std=gnu99") -> Path:
    """Compile a program with warnings as errors; `arguments` come behind it."""
    command = [*compiler.split(), *WARNINGS, str(source), "-o", str(target), *arguments, "-pthread"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def run_program(
    program: Path, *arguments: object, cwd: Path | None = None, stdin: str = "", **changes: str
) -> subprocess.CompletedProcess:
    """Run a program to its end; `changes` are of the environment."""
    # LeakSanitizer's tracer fails in a process with an interpreter's threads; test_calls looks for leaks.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "DENSECORE_PYTHON": sys.executable} | changes
    command = [str(program), *map(str, arguments)]
    options = {"cwd": cwd, "env": environment, "input": stdin, "timeout": TIMEOUT}
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with libdensecore.so, densecore.h and densecore.pc."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    directory = tmp_path_factory.mktemp("capi")
    build(directory)
    return directory


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Run:
    """Compiles a program of this folder and runs it on the built-in model: ``run("threads")``.

    With ``sanitized=True`` program and densecore.c are compiled into one, under AddressSanitizer.
    """

    def call(name: str, *arguments: object, sanitized: bool = False, **changes: str) -> subprocess.CompletedProcess:
        how = (cflags(library), libs(library))
        if sanitized:
            if not has_sanitizer():
                pytest.skip("the compiler has no AddressSanitizer")
            how = (*SANITIZE, str(FOLDER / "densecore.c"), cflags(), "-ldl")
        options = " ".join(how).split()
        program = compile_program(HERE / f"{name}.c", tmp_path / name, *options)
        return run_program(program, builtin_model_path(), *arguments, **changes)

    return call
