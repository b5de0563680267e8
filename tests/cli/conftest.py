"""Ways to call the command: in this process, as a process, and as a process on a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from densecore.cli import main
from tests.gguf_factory import make_model

from .terminal import Terminal

TIMEOUT = 180.0  # seconds; kernels may have to be compiled


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Calls `main` in this process: ``cli("run", "x", stdin="piped")``."""

    def call(*arguments: object, stdin: str | bytes = "") -> Outcome:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        return Outcome(status, *capsys.readouterr())

    return call


def environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONUNBUFFERED": "", "DENSECORE_DEBUG": ""} | changes


def start(*arguments: object, **options) -> subprocess.Popen:
    """The command as a process with pipes; its output is bytes."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    options.setdefault("env", environment())
    return subprocess.Popen([sys.executable, "-m", "densecore", *map(str, arguments)], **options)


def finish(process: subprocess.Popen, stdin: bytes | None = None, timeout: float = TIMEOUT) -> Outcome:
    """Wait for a process, and make sure that it did not end with a traceback."""
    with process:
        try:
            out, err = process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert b"Traceback" not in (err or b""), err.decode()
    return Outcome(process.returncode, (out or b"").decode(), (err or b"").decode())


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Starts the command on a terminal of its own: ``terminal("chat", state=...)``."""
    started: list[Terminal] = []

    def open_terminal(*arguments: object, **changes: str) -> Terminal:
        changes.setdefault("XDG_STATE_HOME", str(tmp_path / "state"))
        command = [sys.executable, "-m", "densecore", *map(str, arguments)]
        started.append(Terminal(command, environment(TERM="dumb", **changes)))
        return started[-1]

    yield open_terminal
    for each in started:
        each.close()


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that can go on for 30000 tokens, and has no token that ends a reply."""
    overrides = {"tokenizer.ggml.eos_token_id": 1}  # BOS, which --logit-bias 1=-100 keeps away
    return make_model(tmp_path_factory.mktemp("models") / "endless.gguf", max_len=30000, metadata_overrides=overrides)
