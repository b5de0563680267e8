"""The one thread of the process that runs kernels.

Numba has one pool of workers for the whole process, and the thread that starts a parallel kernel is one of them. So
all engines share one kernel thread: it lets each engine that has work take a step in turn, and runs calls in between.
The user's own threads never compute, are never pinned, and stay responsive to Ctrl-C.

Compiled code holds no interpreter lock, but has to get it back when it is done. A thread that computes in Python lets
go of it only after Python's switch interval, 5 ms: a third of a step of a small model, at the end of each. While the
kernel thread works the interval is shorter. And what wakes such threads is put off until compiled code runs next: awake
before, they would take turns with the Python part of the step, while all workers wait.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol, TypeVar

from densecore.exceptions import InferenceError

__all__ = ["KernelThread", "Stepper", "kernel_thread"]

logger = logging.getLogger("densecore")

Result = TypeVar("Result")

SWITCH_INTERVAL = 1e-4  # seconds


class Stepper(Protocol):
    """What the kernel thread drives: an engine."""

    def step(self) -> bool:
        """Do one step of work; False when there is nothing left to do."""


@contextlib.contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let Python's threads take turns every `SWITCH_INTERVAL`, unless they do so more often, or are told otherwise."""
    before = sys.getswitchinterval()
    if before <= SWITCH_INTERVAL:
        yield
        return
    sys.setswitchinterval(SWITCH_INTERVAL)
    ours = sys.getswitchinterval()  # in whole microseconds
    try:
        yield
    finally:
        if sys.getswitchinterval() == ours:
            sys.setswitchinterval(before)


class KernelThread:
    """Runs steps of attached engines and calls, one at a time. Started by the first use."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._calls: deque[tuple[Future, Callable[[], object]]] = deque()
        self._busy: deque[Stepper] = deque()  # engines that have work
        self._deferred: deque[Callable[[], object]] = deque()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._stopping = False

    def call(self, function: Callable[[], Result]) -> Result:
        """Run `function` on the kernel thread and return its result, or raise its exception."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[Result] = Future()
        with self._wake:
            self._ensure_started()
            self._calls.append((future, function))
            self._wake.notify()
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def wake(self, engine: Stepper) -> None:
        """`engine` has work: let it take steps until `Stepper.step` returns False."""
        with self._wake:
            self._ensure_started()
            if engine not in self._busy:
                self._busy.append(engine)
            self._wake.notify()

    def defer(self, call: Callable[[], object]) -> None:
        """Do that when compiled code is about to run, or when there is nothing else to do. On this thread."""
        self._deferred.append(call)

    def run_deferred(self) -> None:
        """Compiled code is about to run. On this thread."""
        while self._deferred:
            call = self._deferred.popleft()
            try:
                call()
            except Exception:
                logger.exception("a deferred call failed")

    def stop(self) -> None:
        """End the thread after the current step, so that no kernel runs while the interpreter goes away."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None and self._pid == os.getpid():
            self._thread.join(timeout=10)

    def _ensure_started(self) -> None:
        if self._pid != os.getpid():
            raise InferenceError(
                "DenseCore was used before this process was forked, and compiled threads do not survive a fork: "
                "start worker processes with multiprocessing's 'spawn' method"
            )
        if self._stopping:
            raise InferenceError("the interpreter is shutting down")
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="densecore-kernels", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._calls or self._busy or self._stopping):
                    self._wake.wait()
                if self._stopping:
                    return
                call = self._calls.popleft() if self._calls else None
                engine = self._busy.popleft() if self._busy else None
            with short_switch_interval():
                if call is not None:
                    self.run_deferred()  # it may take long
                    self._run_call(*call)
                if engine is not None and self._step(engine):
                    with self._wake:
                        if engine not in self._busy:
                            self._busy.append(engine)
                else:
                    self.run_deferred()
            call = engine = None  # a closed engine's memory must not wait here for the next one's work

    @staticmethod
    def _step(engine: Stepper) -> bool:
        """A step, whose failure must not end this thread: other engines live on it, too."""
        try:
            return engine.step()
        except Exception:
            logger.exception("an engine failed, and gets no more steps until it is woken")
            return False

    @staticmethod
    def _run_call(future: Future, function: Callable[[], object]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)


kernel_thread = KernelThread()
atexit.register(kernel_thread.stop)
