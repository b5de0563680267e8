"""Requests as futures: one, and many at once."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from densecore.config import GenerationConfig
from densecore.engine import Engine
from densecore.engine.sequence import Event, Finished, TextDelta
from densecore.exceptions import QueueFullError

__all__ = ["PendingResult", "run_all"]

Result = TypeVar("Result")

POLL_SECONDS = 0.01  # between looks at a queue that others have filled


class PendingResult(Future[Result]):
    """What a request will come to. `cancel` ends the request; callbacks are called on the engine's thread.

    make_result : from the last event and the whole text to the result, or an exception
    on_text : called on the engine's thread with each new piece of text; must not block
    """

    def __init__(
        self,
        engine: Engine,
        prompt_ids: Sequence[int],
        config: GenerationConfig,
        make_result: Callable[[Finished, str], Result],
        on_text: Callable[[str], object] | None = None,
    ) -> None:
        super().__init__()
        self._on_text = on_text
        self._engine, self._make_result = engine, make_result
        self._parts: list[str] = []
        self._sequence = engine.submit(prompt_ids, config, self._take)

    def cancel(self) -> bool:
        """End the request, unless it has ended; True if there will be no result."""
        self._engine.abort(self._sequence)
        return super().cancel()

    def _take(self, event: Event) -> None:
        if isinstance(event, TextDelta):
            self._parts.append(event.text)
            if self._on_text is not None:
                self._on_text(event.text)
        elif self.set_running_or_notify_cancel():
            try:
                self.set_result(self._make_result(event, "".join(self._parts)))
            except Exception as error:
                self.set_exception(error)


def run_all(submit: Callable[[list[int]], Future[Result]], prompts: Iterable[list[int]], most: int) -> list[Result]:
    """Results of `submit` for each prompt in order, of which at most `most` are open at a time.

    The first error ends all that are open, and so does Ctrl-C.
    """
    open_ones: deque[Future[Result]] = deque()
    results: list[Result] = []
    try:
        for prompt in prompts:
            while len(open_ones) >= most:
                results.append(open_ones.popleft().result())
            open_ones.append(_submit(submit, prompt, open_ones))
        while open_ones:
            results.append(open_ones.popleft().result())
    except BaseException:
        for future in open_ones:
            future.cancel()
        raise
    return results


def _submit(submit: Callable[[list[int]], Future[Result]], prompt: list[int], ours: deque[Future[Result]]) -> Future:
    """Submit; while the queue is full, wait until one of ours has ended, or for a moment."""
    while True:
        try:
            return submit(prompt)
        except QueueFullError:
            running = [future for future in ours if not future.done()]
            if running:
                wait(running, POLL_SECONDS, "FIRST_COMPLETED")
            else:
                time.sleep(POLL_SECONDS)
