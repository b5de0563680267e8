"""The C part of docs/API_REFERENCE.md: its prototypes are those of the header, and its examples compile and run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from densecore.capi.build import FOLDER, HEADER, SOURCE, cflags, libs
from densecore.data import builtin_model_path
from tests.conftest import shared_path

from .conftest import SANITIZE, compile_program, has_sanitizer, run_program

PAGE = Path(__file__).parents[2] / "docs" / "API_REFERENCE.md"
FUNCTION = re.compile(r"^\w+ \w+\([^;{]*\) \{\n.*?^\}\n", re.M | re.S)  # defined at the beginning of a line
COMPILERS = ["gcc -std=c99", "g++ -std=c++17", "clang -std=c99", "clang++ -std=c++17"]


def blocks(page: Path) -> tuple[list[str], list[str]]:
    """Declarations, and examples, of the C part of a page."""
    part = page.read_text().split("\n## C API Reference\n")[1].split("\n## ")[0]
    found = re.findall(r"(\*\*Example:\*\*\n)?```c\n(.*?)^```", part, re.M | re.S)
    return [text for example, text in found if not example], [text for example, text in found if example]


def as_program(examples: list[str]) -> str:
    """The examples as one program: functions, then statements in a `main`."""
    text = "\n".join(examples)
    functions = "\n".join(FUNCTION.findall(text))
    ends = "WaitRequest(engine, req_id, -1); FreeEngine(engine); FreeEngine(engine2); return 0;"
    includes = "#include <densecore.h>\n#include <stdio.h>\n"
    return f"{includes}{functions}\nint main(void) {{\n{FUNCTION.sub('', text)}\n{ends}\n}}\n"


def test_declarations_are_those_of_the_header() -> None:
    header = re.sub(r"\s+|DENSECORE_API", "", re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S))
    declared = blocks(PAGE)[0]
    for declaration in declared:
        assert re.sub(r"\s+|//.*", "", declaration) in header
    functions = re.findall(r"^DENSECORE_API [\w *]*?(\w+)\(", HEADER.read_text(), re.M)
    assert functions == [name for name in functions if f"#### {name}\n" in PAGE.read_text()]


def test_all_of_the_contract_is_there() -> None:
    contract = blocks(shared_path("docs", "API_REFERENCE.md"))
    ours = blocks(PAGE)
    for wanted, found in zip(contract, ours, strict=True):
        assert [text for text in wanted if text not in found] == []


@pytest.mark.parametrize("compiler", COMPILERS)
def test_examples_compile_and_run(compiler: str, library: Path, tmp_path: Path) -> None:
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"there is no {compiler.split()[0]}")
    source = tmp_path / ("example.cpp" if "++" in compiler else "example.c")
    source.write_text(as_program(blocks(PAGE)[1]))
    options = f"{cflags(library)} {libs(library)}".split()
    program = compile_program(source, tmp_path / "example", *options, compiler=compiler)
    check_output(program, tmp_path)


def test_examples_run_under_address_sanitizer(tmp_path: Path) -> None:
    if shutil.which("cc") is None or not has_sanitizer():
        pytest.skip("there is no C compiler with AddressSanitizer")
    source = tmp_path / "example.c"
    source.write_text(as_program(blocks(PAGE)[1]))
    program = compile_program(source, tmp_path / "example", *SANITIZE, str(SOURCE), f"-I{FOLDER}", "-ldl")
    check_output(program, tmp_path)


def check_output(program: Path, folder: Path) -> None:
    """It finds a model of the name that the page has, and prints what it generates."""
    (folder / "model.gguf").symlink_to(builtin_model_path())
    done = run_program(program, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "first token after" in done.stdout
    assert done.stdout.count("\n") > 3
    assert "Failed" not in done.stderr
    assert "Sanitizer" not in done.stderr
