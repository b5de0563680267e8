"""The thread on which an engine's C callbacks are called, so that a slow one never holds up computing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["CallbackThread"]

logger = logging.getLogger("densecore")


class CallbackThread:
    """Makes calls one at a time, in the order in which they were put."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="densecore-callbacks", daemon=True)
        self._thread.start()

    @property
    def is_current(self) -> bool:
        """Whether the caller is in a callback."""
        return threading.get_ident() == self._thread.ident

    def put(self, call: Callable[[], None]) -> None:
        """Make a call later; from any thread."""
        self._calls.put(call)

    def close(self, seconds: float | None = None) -> None:
        """End the thread after the calls that were put, and wait for that, unless this is one of them."""
        self._calls.put(None)
        if not self.is_current:
            self._thread.join(seconds)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception:
                logger.exception("a callback failed")
            del call  # what it holds must not wait here for the next one
