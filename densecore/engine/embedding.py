"""Requests for vectors of texts: what is asked, and the future of what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as SequenceOf
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from densecore.engine.sequence import Event, Finished, Timings, Usage
from densecore.exceptions import InferenceError
from densecore.models import Pooling

__all__ = ["Embedding", "Text"]


@dataclass(frozen=True)
class Text:
    """The tokens of a text; `token_types` are 1 in the second text of a pair, and 0 unless given."""

    token_ids: SequenceOf[int]
    token_types: SequenceOf[int] | None = None


class Embedding(Future[np.ndarray]):
    """The pooled hidden state (dim,) of a text that is being computed. `cancel` ends the request.

    text : what is asked; `pooling` collects what has been computed of it
    on_end : called on the engine's thread with counts and times when it has ended, before the result is there
    """

    def __init__(
        self, text: Text, kind: str, timeout: float | None = None, on_end: Callable[[Finished], None] | None = None
    ) -> None:
        super().__init__()
        self.text, self.pooling, self._on_end = text, Pooling(kind), on_end
        self.created = time.perf_counter()
        self.started: float | None = None
        self.deadline = float("inf") if timeout is None else self.created + timeout
        self.on_cancel: Callable[[], None] = lambda: None

    def cancel(self) -> bool:
        """End the request, unless it has ended; True if there will be no result."""
        self.on_cancel()
        return super().cancel()

    def take(self, event: Event) -> None:
        """An event of the sequence that computes it: its last one tells how it ended."""
        if isinstance(event, Finished):
            aborted = InferenceError("the model was closed while it worked on this text")
            self.settle(aborted if event.finish_reason == "abort" else event.error)

    def end(self, error: Exception | None = None) -> None:
        """It has been computed, or failed."""
        now = time.perf_counter()
        started = self.started if self.started is not None else now
        timings = Timings(started - self.created, now - started, 0.0, len(self.text.token_ids), 0)
        if self._on_end is not None:
            reason = None if error else "stop"
            self._on_end(Finished(reason, (), Usage(len(self.text.token_ids), 0), timings, error))
        self.settle(error)

    def settle(self, error: Exception | None) -> None:
        """Let whoever waits have the vector, or the error."""
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            vector = self.pooling.vector
            if np.isfinite(vector).all():
                self.set_result(vector)
                return
            error = InferenceError("the model gave NaN or infinity for this text")
        self.set_exception(error)
