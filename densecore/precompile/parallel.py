"""Hands kernels that are to be compiled to this process and to helpers, whoever is free, the slowest first."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numba.core import config as numba_config

from densecore.kernels import threads
from densecore.kernels.cache import Compilation, cache_directory, num_compiled, num_compiled_elsewhere
from densecore.kernels.progress import compiled_elsewhere, expecting, started_elsewhere
from densecore.models import Encoder, Model
from densecore.precompile.needed import find_needed, seconds

__all__ = ["precompile"]

config: Any = numba_config  # its settings are set at run time

MAX_PROCESSES = 8
SECONDS_A_PROCESS = 2.0  # of compilation that make a process worth its start, which takes one

_START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from densecore.precompile.helper import main; main()"


def precompile(model: Model | Encoder, kv_cache_dtype: str, num_processes: int = 0) -> int:
    """Compile what `model` needs and the cache lacks; returns how many kernels were compiled.

    num_processes : this one included; 0 takes a process a core, and no more than there is work for

    To be called on the kernel thread. Without a cache directory nothing is done, as processes share it; nor under
    ``NUMBA_DISABLE_JIT``.
    """
    if cache_directory() is None or config.DISABLE_JIT:
        return 0
    needed = find_needed(model, kv_cache_dtype)
    if not needed:
        return 0
    before = num_compiled() + num_compiled_elsewhere()
    cpus = sorted(threads.process_affinity())
    request = {"model": str(model.path), "kv_cache_dtype": kv_cache_dtype, "cpus": cpus}
    with expecting(len(needed)):
        _compile_all(deque(needed), request, _num_processes(needed, num_processes) - 1)
    return num_compiled() + num_compiled_elsewhere() - before


def _num_processes(needed: Sequence[Compilation], wanted: int) -> int:
    worth = 1 + int(sum(map(seconds, needed)) / SECONDS_A_PROCESS)
    most = wanted or min(threads.default_thread_count(), worth, MAX_PROCESSES)
    return min(most, len(needed))


def _compile_all(left: deque[Compilation], request: dict[str, Any], num_helpers: int) -> None:
    """Empty `left`, and wait until all of it is in the cache."""
    helpers = [_Helper(left, request) for _ in range(num_helpers if _has_interpreter() else 0)]
    try:
        while (compilation := _next(left)) is not None:
            compilation.compile()
            if not left:  # what a helper that died leaves behind comes back to the queue
                for helper in helpers:
                    helper.join()
    finally:
        for helper in helpers:
            helper.close()


def _next(left: deque[Compilation]) -> Compilation | None:
    with contextlib.suppress(IndexError):
        return left.popleft()
    return None


def _has_interpreter() -> bool:
    """Whether there is a Python to start: not so in a program that embeds one."""
    return Path(sys.executable or "").name.lower().startswith(("python", "pypy"))


class _Helper:
    """A process that compiles, and the thread that gives it work from `left` until there is none."""

    def __init__(self, left: deque[Compilation], request: dict[str, Any]) -> None:
        self._left, self._request = left, request
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, json.dumps([entry for entry in sys.path if entry])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("DENSECORE_DEBUG", "") not in ("", "0") else subprocess.DEVNULL,
            text=True,
        )
        self._thread = threading.Thread(target=self._serve, name="densecore-precompile", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until the helper has nothing left to do."""
        self._thread.join()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._thread.join()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what it did not read any more
                pipe.close()  # type: ignore[union-attr]  # both are pipes

    def _serve(self) -> None:
        if self._ask(self._request) is None:
            return
        while (compilation := _next(self._left)) is not None:
            started_elsewhere(compilation.description.split(" ")[0])
            answer = self._ask(compilation.name)
            if answer is None:
                self._left.append(compilation)
                return
            compiled_elsewhere(answer["compiled"])

    def _ask(self, value: Any) -> dict[str, Any] | None:
        """Send a value and wait for the answer; None if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
            return json.loads(self._process.stdout.readline())
        except (OSError, ValueError):
            return None
