"""The commands of docs/CLI.md and docs/MODEL_OPTIMIZATION.md run, in the order in which they stand there.

Files that they name are the built-in model and a text. What needs the Hub, a checkpoint or a server is tried by
tests/cli/test_hub.py, tests/convert and tests/server, and `bench`, which takes its time, by tests/cli/test_bench.py.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from densecore.cli import main
from densecore.data import builtin_model_path
from tests.conftest import shared_path

DOCS = Path(__file__).parents[2] / "docs"
ELSEWHERE = {"bench", "convert", "list", "pull", "rm", "serve"} | ({"capi"} if shutil.which("cc") is None else set())
TEXT = "def read(self, size=-1):\n    return self._file.read(size)\n" * 40
SHORT_TEXTS = {verb: ["-c", "64"] for verb in ("perplexity", "imatrix", "compare")}
LAYERS = {"24": "5"}  # the built-in model has 6


def commands(page: str) -> list[list[str]]:
    """Arguments of each command, without what a shell does with it."""
    blocks = re.findall(r"(?<!-->\n)^```sh\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    first = [re.split(r" [|<>] ", re.sub(r"^echo .* \| ", "", line))[0] for line in lines]
    return [words[1:] for line in first if (words := shlex.split(line, comments=True))]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the files that the pages name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(shared_path("models", "pystd-6m-f16.gguf"), tmp_path / "model-f16.gguf")
    for name in ("model.gguf", "model-q8_0.gguf", "qwen2.5-0.5b-instruct-q8_0.gguf"):
        shutil.copy(builtin_model_path(), tmp_path / name)
    for name in ("text.txt", "calibration.txt", "wiki.test.raw"):
        (tmp_path / name).write_text(TEXT)


@pytest.mark.parametrize("page", ["CLI.md", "MODEL_OPTIMIZATION.md"])
def test_commands_run(page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in commands(page):
        if words[0] in ELSEWHERE or "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M" in words:
            continue
        arguments = [*(LAYERS.get(word, word) for word in words), *SHORT_TEXTS.get(words[0], [])]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"12\n"), "utf-8"))
        status = main(arguments)
        assert (status, arguments, capsys.readouterr().err if status else "") == (0, arguments, "")
