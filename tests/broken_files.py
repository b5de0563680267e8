"""Opens files that may be broken in a child process, and tells what came of it.

A broken file must be refused: a ModelLoadError of one line that names what is wrong. Whatever else can happen
to a reader (another exception, death by a signal, a hang, gigabytes of memory) happens to the child, is
reported as such, and the next file gets a new child. One child serves many files, so a case costs a millisecond::

    with FileOpener("densecore.gguf:GGUFFile.open") as opener:
        check_refused(opener.open(path), "tensor_count", "at most")

The loader is any function of one path, named ``package.module:name.name``; what it returns is closed if it can be.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["FileOpener", "Outcome", "check_refused"]

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0  # importing the loader, on a busy machine


@dataclass(frozen=True)
class Outcome:
    """What came of one attempt to open a file."""

    path: Path
    kind: str  # "opened", "refused" (ModelLoadError), "raised" (anything else), "died", "hung"
    error: str = ""  # name of the exception, or how the child ended
    message: str = ""
    peak_bytes: int = 0  # by how much the attempt raised the child's resident memory at its highest


def check_refused(outcome: Outcome, *words: str) -> None:
    """Asserts a ModelLoadError in one readable line that holds every one of `words`, in any case."""
    assert outcome.kind == "refused", outcome
    assert outcome.message.isprintable(), f"not one readable line: {outcome}"
    assert len(outcome.message) < 1000, f"too long to read: {outcome}"
    missing = [word for word in words if word.lower() not in outcome.message.lower()]
    assert not missing, f"{missing} not in: {outcome.message}"


class FileOpener:
    """A child process that opens files with `loader`, within `timeout` seconds and `memory` bytes each.

    The memory is what the child may map beyond what it had when the loader was imported; None for no limit.
    """

    def __init__(self, loader: str, *, timeout: float = 20.0, memory: int | None = 1 << 31) -> None:
        self.loader = loader
        self.timeout = timeout
        self.memory = memory
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> FileOpener:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self, path: str | os.PathLike[str]) -> Outcome:
        """Lets the child open `path`; the next call starts a new child if this one ends it."""
        path = Path(path)
        child = self._started()
        child.stdin.write(json.dumps(str(path)).encode() + b"\n")
        child.stdin.flush()
        line = _read_line(child, self.timeout)
        if line is None:
            self._stop(kill=True)
            return Outcome(path, "hung", f"no answer within {self.timeout} s")
        if not line:
            return Outcome(path, "died", f"exit status {self._stop()}")
        return Outcome(path, **json.loads(line))

    def close(self) -> None:
        """Ends the child."""
        if self._child is not None:
            self._stop()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            command = [sys.executable, "-m", "tests.broken_files", self.loader, str(self.memory or 0)]
            self._child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
            ready = _read_line(self._child, START_SECONDS)
            assert ready == b"ready\n", f"the loader {self.loader} does not start: {ready!r}"
        return self._child

    def _stop(self, *, kill: bool = False) -> int:
        child, self._child = self._child, None
        assert child is not None
        if kill:
            child.kill()
        with child:  # closes both pipes, which ends the child, and waits for it
            pass
        return child.returncode


def _read_line(child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The child's next line; empty if it has ended, None if nothing came in time."""
    deadline = time.monotonic() + seconds
    line = b""
    while not line.endswith(b"\n"):
        ready, _, _ = select.select([child.stdout], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        chunk = os.read(child.stdout.fileno(), 1 << 16)
        if not chunk:
            return b""
        line += chunk
    return line


def _serve(loader: Callable[[str], Any], memory: int) -> None:
    """The child: a JSON path a line in, a JSON answer a line out. What the loader prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if memory:
        limit = _status_bytes("VmSize") + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        _reset_peak()
        before = _status_bytes("VmRSS")
        answer = _attempt(loader, json.loads(line))
        answer["peak_bytes"] = max(0, _status_bytes("VmHWM") - before)
        print(json.dumps(answer), file=answers, flush=True)


def _attempt(loader: Callable[[str], Any], path: str) -> dict[str, Any]:
    try:
        result = loader(path)
        if hasattr(result, "close"):
            result.close()
    except BaseException as error:
        refused = [kind.__name__ for kind in type(error).__mro__].count("ModelLoadError")
        kind = "refused" if refused else "raised"
        return {"kind": kind, "error": type(error).__name__, "message": str(error)}
    return {"kind": "opened"}


def _status_bytes(field: str) -> int:
    """A size from Linux's account of this process; 0 where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), 0)


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # else the peak is that of the whole life of the process
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from VmRSS


def _find(loader: str) -> Callable[[str], Any]:
    module, _, names = loader.partition(":")
    found: Any = importlib.import_module(module)
    for name in names.split("."):
        found = getattr(found, name)
    return found


if __name__ == "__main__":
    _serve(_find(sys.argv[1]), int(sys.argv[2]))
