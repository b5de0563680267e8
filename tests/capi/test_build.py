"""Header, library, flags and pkg-config file."""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import densecore
from densecore.capi.build import FOLDER, HEADER, SOURCE, build
from densecore.capi.metrics import BasicMetrics, DetailedMetrics
from densecore.cli import main

from .conftest import WARNINGS, compile_program, needs_compiler, run_program

COMPILERS = ["gcc -std=c99", "gcc -std=c11", "g++ -std=c++17 -x c++", "clang -std=c99", "clang++ -std=c++17 -x c++"]


@pytest.mark.parametrize("compiler", COMPILERS)
def test_any_compiler_takes_the_source(compiler: str, tmp_path: Path) -> None:
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"there is no {compiler.split()[0]}")
    command = [*compiler.split(), *WARNINGS, "-Wpedantic", "-c", str(SOURCE), "-o", str(tmp_path / "densecore.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_version() -> None:
    assert f'#define DENSECORE_VERSION "{densecore.__version__}"' in HEADER.read_text()


@needs_compiler
def test_metrics_lie_where_c_has_them(tmp_path: Path) -> None:
    lines = []
    for name, structure in (("DenseCoreMetrics", BasicMetrics), ("DetailedMetrics", DetailedMetrics)):
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        lines += [f'printf("{field} %zu\\n", offsetof({name}, {field}));' for field, *_ in structure._fields_]
    source = tmp_path / "layout.c"
    includes = "#include <densecore.h>\n#include <stddef.h>\n#include <stdio.h>\n"
    source.write_text(f"{includes}int main(void) {{ {' '.join(lines)} return 0; }}")
    printed = run_program(compile_program(source, tmp_path / "layout", f"-I{FOLDER}")).stdout.split()
    ours = []
    for name, structure in (("DenseCoreMetrics", BasicMetrics), ("DetailedMetrics", DetailedMetrics)):
        ours += [name, str(ctypes.sizeof(structure))]
        for field, *_ in structure._fields_:
            ours += [field, str(getattr(structure, field).offset)]
    assert printed == ours


def test_fields_are_those_of_the_header() -> None:
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    for name, structure in (("DenseCoreMetrics", BasicMetrics), ("DetailedMetrics", DetailedMetrics)):
        (body,) = re.findall(rf"typedef struct {{([^}}]*)}} {name};", text)
        assert re.findall(r"(\w+);", body) == [field for field, *_ in structure._fields_]


@needs_compiler
def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DENSECORE_CACHE_DIR", str(tmp_path / "cache"))
    assert main(["capi", "--cflags", "--libs"]) == 0
    flags = capsys.readouterr().out.split()
    (folder,) = (Path(flag[2:]) for flag in flags if flag.startswith("-L"))
    assert f"-I{FOLDER}" in flags
    assert (folder / "libdensecore.so").is_file()
    assert main(["capi", "--source"]) == 0
    assert capsys.readouterr().out.strip() == str(SOURCE)
    assert main(["capi"]) == 2
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main(["capi", "--build", str(tmp_path / "other")]) == 1
    assert "no-such-compiler cannot be run" in capsys.readouterr().err


@needs_compiler
@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="there is no pkg-config")
def test_pkg_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build(Path("a folder"))
    environment = os.environ | {"PKG_CONFIG_PATH": "a folder"}

    def ask(*options: str) -> str:
        command = ["pkg-config", *options, "densecore"]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.strip()

    assert ask("--modversion") == densecore.__version__
    folder = tmp_path / "a folder"  # in full, so that a program finds the library from anywhere
    assert shlex.split(ask("--cflags", "--libs")) == [
        f"-I{folder}", f"-L{folder}", "-ldensecore", f"-Wl,-rpath,{folder}",
    ]  # fmt: skip


def test_python_tells_where_it_is() -> None:
    command = [sys.executable, "-m", "densecore.capi"]
    executable, shared = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert executable == sys.executable
    assert shared == "" or Path(shared).is_file()
