"""The programs of docs/examples in C and Rust, and how soon one speaks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from densecore import DenseCore
from densecore.capi.build import cflags, libs
from densecore.data import builtin_model_path

from .conftest import compile_program, run_program

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
GREEDY = {"max_tokens": 40, "temperature": 0}


@pytest.fixture(scope="module")
def model():
    with DenseCore(builtin_model_path()) as loaded:
        yield loaded


def compiled(name: str, library: Path, folder: Path, *arguments: str) -> Path:
    options = f"{cflags(library)} {libs(library)}".split()
    return compile_program(EXAMPLES / f"{name}.c", folder / name, *options, *arguments)


def test_chat(library: Path, tmp_path: Path, model: DenseCore) -> None:
    said = ['Say "a\\b"\tü', "And then?"]
    program = compiled("chat", library, tmp_path)
    done = run_program(program, builtin_model_path(), 40, stdin="\n".join(said) + "\n\n")
    first = model.chat([{"role": "user", "content": said[0]}], **GREEDY)
    conversation = [("user", said[0]), ("assistant", first), ("user", said[1])]
    second = model.chat([{"role": role, "content": content} for role, content in conversation], **GREEDY)
    assert (done.stdout, done.stderr, done.returncode) == (f"{first}\n{second}\n", "", 0)


def test_embedding(library: Path, tmp_path: Path, model: DenseCore) -> None:
    program = compiled("embedding", library, tmp_path, "-lm")
    done = run_program(program, builtin_model_path(), "import os", "import sys")
    vectors = model.embed_batch(["import os", "import sys"], pooling="model")
    wanted = f"{vectors.shape[1]} dimensions, cosine {float(vectors[0] @ vectors[1]):.4f}\n", "", 0
    assert (done.stdout, done.stderr, done.returncode) == wanted


def test_rust(library: Path, tmp_path: Path, model: DenseCore) -> None:
    if shutil.which("rustc") is None or subprocess.run(["rustc", "--version"], check=False).returncode:
        pytest.skip("there is no Rust compiler, or no toolchain behind its name")
    program = tmp_path / "stream"
    command = ["rustc", "-D", "warnings", str(EXAMPLES / "stream.rs"), "-o", str(program), "-L", str(library)]
    command += ["-C", f"link-arg=-Wl,-rpath,{library}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = run_program(program, builtin_model_path(), "import os\n").stdout
    assert text == model.generate("import os\n", max_tokens=30, temperature=0) + "\n"


def test_first_token_comes_within_a_second_of_the_sdks(library: Path, tmp_path: Path) -> None:
    """From the compiler to the first token, and from Python's start to it; the best of three."""
    path = str(builtin_model_path())
    sdk = f"from densecore import DenseCore; print(DenseCore({path!r}).generate('import', max_tokens=1, temperature=0))"
    source = tmp_path / "first.c"
    source.write_text(
        "#include <densecore.h>\n#include <stdio.h>\n"
        'static void on_token(const char *token, int is_finished, void *user_data) { printf("%s", token); }\n'
        "int main(int argc, char **argv) {\n"
        "    DenseCoreHandle engine = InitEngine(argv[1], NULL, 0, -1, 0);\n"
        '    WaitRequest(engine, SubmitRequest(engine, "import", 1, on_token, NULL), -1);\n'
        "    FreeEngine(engine);\n    return 0;\n}\n"
    )

    def seconds_of_c() -> float:
        start = time.perf_counter()
        program = compile_program(source, tmp_path / "first", *f"{cflags(library)} {libs(library)}".split())
        assert run_program(program, path).stdout.strip()
        return time.perf_counter() - start

    def seconds_of_sdk() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", sdk], capture_output=True, check=True)
        return time.perf_counter() - start

    seconds_of_sdk()  # kernels are compiled
    differences: list[float] = []
    while len(differences) < 3 and min(differences, default=9.0) > 1.0:
        differences.append(seconds_of_c() - seconds_of_sdk())
    print(f"C takes {min(differences):+.2f} s compared with the SDK")
    assert min(differences) <= 1.0
