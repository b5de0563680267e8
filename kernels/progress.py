"""What is being compiled: real compilations of kernels, none for what the cache already had."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from numba.core import event

from .kernel_cache import KernelCache

Callback = Callable[[str, int], None]


class _CompileListener(event.Listener):
    """Counts the outermost compilations of kernels; those of the functions that they call are part of them."""

    def __init__(self) -> None:
        self.num_started = 0
        self.num_elsewhere = 0
        self.num_expected: int | None = None
        self.num_compiled = 0
        self.callbacks: list[Callback] = []
        self._lock = threading.Lock()
        self._depth = threading.local()

    def on_start(self, compilation: event.Event) -> None:
        if not _is_kernel(compilation):
            return
        depth = getattr(self._depth, "value", 0)
        self._depth.value = depth + 1
        if depth == 0:
            self.started(compilation.data["dispatcher"].__name__)

    def started(self, name: str) -> None:
        with self._lock:
            self.num_started += 1
            count, callbacks = self.num_started, list(self.callbacks)
        for callback in callbacks:
            callback(name, count)

    def on_end(self, compilation: event.Event) -> None:
        if not _is_kernel(compilation):
            return
        self._depth.value -= 1
        if self._depth.value == 0:
            with self._lock:
                self.num_compiled += 1


def _is_kernel(compilation: event.Event) -> bool:
    return isinstance(getattr(compilation.data["dispatcher"], "_cache", None), KernelCache)


_listener = _CompileListener()
event.register("numba:compile", _listener)


def num_compiled() -> int:
    """How many kernels this process has compiled: outermost ones, each set of argument types by itself."""
    return _listener.num_compiled


def started_elsewhere(name: str) -> None:
    """Another process has begun to compile a kernel for this one: part of the progress."""
    _listener.started(name)


def compiled_elsewhere(count: int) -> None:
    """Another process has compiled this many kernels for this one, and put them into the cache."""
    _listener.num_elsewhere += count


def num_compiled_elsewhere() -> int:
    """How many kernels other processes have compiled for this one."""
    return _listener.num_elsewhere


@contextlib.contextmanager
def expecting(count: int) -> Iterator[None]:
    """Within this block, `count` more compilations are known to be needed."""
    _listener.num_expected = _listener.num_started + count
    try:
        yield
    finally:
        _listener.num_expected = None


def num_remaining() -> int | None:
    """How many of the compilations that are known to be needed have not begun; None where that is not known."""
    expected = _listener.num_expected
    return None if expected is None else max(expected - _listener.num_started, 0)


@contextlib.contextmanager
def compile_progress(callback: Callback) -> Iterator[None]:
    """Call ``callback(name, count)`` at the start of each real compilation of a kernel, in any thread.

    *name* is the kernel's function name, *count* 1 for the first compilation within this block. A cache hit is
    not reported; what other processes compile for this one is. What the callback raises, the call of the kernel raises.
    """
    before = _listener.num_started

    def since_entry(name: str, count: int) -> Any:
        return callback(name, count - before)

    _listener.callbacks.append(since_entry)
    try:
        yield
    finally:
        _listener.callbacks.remove(since_entry)
