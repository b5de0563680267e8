"""A process that compiles kernels for another one: what `parallel` starts.

Protocol: one JSON value a line. The first line in is ``{"model": path, "kv_cache_dtype": ..., "cpus": [...]}``,
answered by ``{"ready": true}``. Each further line is the name of a kernel, answered by ``{"compiled": n}``, where n is
0 if it turned out that nothing had to be compiled. The end of the input ends the process at once, whatever it is
doing: files of the cache are written whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
from typing import Any

__all__ = ["main"]


def main() -> None:
    """Serve until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this process without a word
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    request = json.loads(lines.get())
    _run_on(request["cpus"])
    needed = _needed(request["model"], request["kv_cache_dtype"])
    _send({"ready": True})
    while True:
        _send({"compiled": _compile(json.loads(lines.get()), needed)})


def _read(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _run_on(cpus: list[int]) -> None:
    """Leave the CPU of the thread that started this process, which may be pinned."""
    with contextlib.suppress(OSError, AttributeError):  # a sandbox, or not Linux
        os.sched_setaffinity(0, cpus)


def _send(answer: dict[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except OSError:  # nobody waits for it any more
        os._exit(0)


def _needed(path: str, kv_cache_dtype: str) -> dict[str, Any]:
    """What the cache lacks by name, as this process finds it."""
    from densecore.gguf import GGUFFile
    from densecore.models import load_any
    from densecore.precompile.needed import find_needed

    model = load_any(GGUFFile.open(path))
    return {compilation.name: compilation for compilation in find_needed(model, kv_cache_dtype)}


def _compile(name: str, needed: dict[str, Any]) -> int:
    from densecore.kernels.cache import num_compiled

    before = num_compiled()
    if name in needed:
        needed[name].compile()
    return num_compiled() - before
