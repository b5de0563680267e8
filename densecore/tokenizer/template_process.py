"""Renders untrusted chat templates in a process of their own, with limits of time and memory.

Why a process: a template can keep a single operation of C code busy for hours (``10 ** (10 ** 9)``), can nest loops,
double strings, or build lists that print as gigabytes. Counting operations inside this process would have to know
every such way; a time limit would need signals and the main thread, and could not interrupt C code. The system can
end a process in any state, and take its memory back. The process starts in about a tenth of a second, at the first
chat, and then serves all templates of this program; a rendering costs a fraction of a millisecond more.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from densecore.exceptions import InferenceError
from densecore.tokenizer import template_worker

__all__ = ["WALL_SECONDS", "exchange", "stop"]

START_SECONDS = 60.0  # for the process to start, on a busy machine
WALL_SECONDS = 20.0  # for one rendering; the limit of processor time ends it long before, unless the machine is busy
_MAX_ANSWER = 8 * template_worker.MAX_OUTPUT  # bytes; JSON writes a character in up to 6, or 12 beyond U+FFFF

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None


def exchange(request: dict[str, Any]) -> dict[str, str]:
    """The answer of the rendering process to `request`, see template_worker.

    A process that dies or is stopped answers ``{"problem": "failed", "message": ...}``; the next request starts a
    new one. Raises InferenceError if no process can be started.
    """
    line = json.dumps(request).encode() + b"\n"
    with _lock:
        process = _started()
        answer = _ask(process, line, WALL_SECONDS)
        if answer is None:
            return {"problem": "failed", "message": _end(process)}
        return answer


def stop() -> None:
    """End the process; the next rendering starts a new one."""
    with _lock:
        if _process is not None:
            _close(_process)


def _started() -> subprocess.Popen[bytes]:
    global _process
    if _process is not None and _process.poll() is None:
        return _process
    if _process is not None:
        _close(_process)
    script = Path(template_worker.__file__)
    # -I -S: nothing from the environment or the working directory; the paths of this program follow as data.
    process = subprocess.Popen(
        [_interpreter(), "-I", "-S", str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for this program, not for its helper
    )
    _process = process
    path = [entry for entry in sys.path if entry]
    answer = _ask(process, json.dumps({"path": path}).encode() + b"\n", START_SECONDS)
    if answer is None or "ready" not in answer:
        problem = (answer or {}).get("message", "it ended at once")
        _close(process)
        raise InferenceError(f"the process that renders chat templates does not start: {problem}")
    return process


def _ask(process: subprocess.Popen[bytes], line: bytes, seconds: float) -> dict[str, str] | None:
    """One line out, one line in; None if the process ended, or had to be ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)  # makes the read below come to its end
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(line)
        process.stdin.flush()
        answer = process.stdout.readline(_MAX_ANSWER)
        return json.loads(answer) if answer.endswith(b"\n") else None
    except (OSError, ValueError):
        return None
    finally:
        timer.cancel()


def _end(process: subprocess.Popen[bytes]) -> str:
    """Put an end to a process that gave no answer, and say why it did not."""
    status = _close(process)
    if status == -getattr(signal, "SIGPROF", 0) != 0:
        return f"it is not done after {template_worker.CPU_SECONDS} seconds of processor time"
    if status == -getattr(signal, "SIGKILL", 0) or os.name == "nt":
        return f"it was stopped, after {WALL_SECONDS} seconds or by the system"
    return f"it ended the process that rendered it (exit status {status})"


def _close(process: subprocess.Popen[bytes]) -> int:
    global _process
    _process = None
    try:
        process.wait(0.2 if process.poll() is None else 0)
    except subprocess.TimeoutExpired:
        process.kill()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):  # unwritten data that nobody reads any more
            pipe.close()  # type: ignore[union-attr]  # both are pipes
    return process.wait()


def _interpreter() -> str:
    """A Python to start: not the program that may have embedded this one."""
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"{sys.exec_prefix}/bin/{name}", f"{sys.exec_prefix}/python.exe"):
        if candidate and Path(candidate).name.lower().startswith(("python", "pypy")) and Path(candidate).is_file():
            return candidate
    raise InferenceError("chat templates are rendered in a Python process, and no interpreter was found")


def _forget() -> None:
    """After a fork: the process belongs to the parent."""
    global _lock, _process
    _lock = threading.Lock()
    if _process is not None:
        _process.returncode = 0  # else its destructor would wait for it
        _process = None


atexit.register(stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
