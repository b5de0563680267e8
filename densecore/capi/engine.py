"""An engine as C sees it: requests that have numbers, and callbacks instead of streams."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import Any

import numpy as np

from densecore.capi.callbacks import CallbackThread
from densecore.capi.codes import ERROR, OK, FailedRequestError, code_of, message_of
from densecore.config import GenerationConfig
from densecore.exceptions import DenseCoreError, InferenceError, InvalidConfigError, TimeoutError
from densecore.llm import DenseCore, unit_length

__all__ = ["CEngine", "TokenReceiver", "VectorReceiver"]

MAX_ID = 2**31 - 1  # a C int; numbers begin again at 1 after it
MAX_FAILURES = 65536  # of requests that have ended, kept for `wait`

TokenReceiver = Callable[[bytes, int], None]  # (text, is_finished)
VectorReceiver = Callable[[np.ndarray | None], None]


class Request:
    """A request that has not ended: its last callback has not returned."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.future: Future | None = None  # until it is submitted
        self.cancelled = self.ended = False


class CEngine:
    """A model, its open requests by number, and the thread of their callbacks. Safe to use from several threads."""

    def __init__(self, model: DenseCore) -> None:
        self.model = model
        self._callbacks = CallbackThread()
        self._changed = threading.Condition()  # guards what follows
        self._open: dict[int, Request] = {}
        self._failures: OrderedDict[int, tuple[int, str]] = OrderedDict()  # code and message of those that failed
        self._num_issued = 0
        self._num_submitting = 0
        self._closed = False

    # ------------------------------------------------------------------ requests

    def submit(self, prompt: str | list[int], config: GenerationConfig, receive: TokenReceiver) -> int:
        """Start a request and return its number.

        receive : called with pieces of text and 0, then once with an empty one and 1, or the code of an error

        Raises what `DenseCore.submit` raises.
        """
        with self._new_request() as request:

            def send(text: str) -> None:
                if not (request.cancelled or request.ended):
                    receive(text.replace("\0", "").encode(), 0)  # a NUL would end C's string

            def end(code: int) -> None:
                receive(b"", 1 if code == OK else code)

            future = self.model.submit(prompt, config, on_text=lambda text: self._callbacks.put(lambda: send(text)))
            future.add_done_callback(lambda done: self._callbacks.put(lambda: self._end(request, done, end)))
            self._started(request, future)
        return request.number

    def submit_embedding(self, text: str, receive: VectorReceiver) -> int:
        """Start a request for an embedding, of length 1 and by the model's own pooling, and return its number.

        receive : called once, with the vector, or None if the request failed

        Raises what `DenseCore.submit_embedding` raises.
        """
        with self._new_request() as request:
            future = self.model.submit_embedding(text)

            def end(code: int) -> None:
                receive(unit_length(future.result()[None])[0] if code == OK else None)

            future.add_done_callback(lambda done: self._callbacks.put(lambda: self._end(request, done, end)))
            self._started(request, future)
        return request.number

    def cancel(self, number: int) -> None:
        """End a request; harmless if it has ended. InvalidConfigError if there was none of this number."""
        with self._changed:
            request = self._find(number)
            if request is None:
                return
            request.cancelled = True
            future = request.future
        if future is not None:
            future.cancel()

    def wait(self, number: int, seconds: float | None) -> None:
        """Wait until a request has ended.

        Raises
        ------
        FailedRequestError
            It ended with an error, or was cancelled.
        InvalidConfigError
            There was no request of this number, or this is a callback, for whose return the request waits.
        TimeoutError
            It has not ended within so many seconds.
        """
        with self._changed:
            if self._find(number) is not None and self._callbacks.is_current:
                raise InvalidConfigError("WaitRequest in a callback would wait for itself: call it in another thread")
            if not self._changed.wait_for(lambda: number not in self._open, seconds):
                raise TimeoutError(f"request {number} has not ended within {seconds:g} seconds, and goes on")
            failure = self._failures.get(number)
        if failure is not None:
            raise FailedRequestError(*failure)

    def close(self, seconds: float | None = None) -> None:
        """End all requests and their callbacks, and let go of the model; wait for that, unless this is a callback."""
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._num_submitting)
        self.model.close()
        self._callbacks.close(seconds)

    # ------------------------------------------------------------------ inside

    @contextmanager
    def _new_request(self) -> Iterator[Request]:
        """A request with a number of its own, which is open unless what follows fails."""
        with self._changed:
            if self._closed:
                raise InferenceError("the engine is being freed")
            request = Request(self._next_number())
            self._open[request.number] = request
            self._num_submitting += 1
        try:
            yield request
        except BaseException:
            self._forget(request, OK, "")
            raise
        finally:
            with self._changed:
                self._num_submitting -= 1
                self._changed.notify_all()

    def _next_number(self) -> int:
        while True:
            number = self._num_issued % MAX_ID + 1
            self._num_issued += 1
            if number not in self._open:
                self._failures.pop(number, None)
                return number

    def _find(self, number: int) -> Request | None:
        """The request, None if it has ended; InvalidConfigError if there was none."""
        if not 1 <= number <= min(self._num_issued, MAX_ID):
            raise InvalidConfigError(f"this engine has no request {number}")
        return self._open.get(number)

    def _started(self, request: Request, future: Future) -> None:
        with self._changed:
            request.future = future
            cancelled = request.cancelled
        if cancelled:  # by a callback that came before
            future.cancel()

    def _end(self, request: Request, future: Future, tell: Callable[[int], None]) -> None:
        """Make the last callback of a request, which `future` has the result of, and let go of it."""
        code, message = _outcome(request, future)
        request.ended = True
        try:
            tell(code)
        finally:
            self._forget(request, code, message)

    def _forget(self, request: Request, code: int, message: str) -> None:
        with self._changed:
            del self._open[request.number]
            request.future = None  # which refers to the request
            if code != OK:
                self._failures[request.number] = code, message
                if len(self._failures) > MAX_FAILURES:
                    self._failures.popitem(last=False)
            self._changed.notify_all()


def _outcome(request: Request, future: Future[Any]) -> tuple[int, str]:
    """Code and message of a request that has ended."""
    cancelled = f"request {request.number} was cancelled"
    try:
        result = future.result()
    except CancelledError:
        return ERROR, cancelled
    except DenseCoreError as error:
        return code_of(error), message_of(error)
    if request.cancelled or getattr(result, "finish_reason", None) == "abort":
        return ERROR, cancelled
    return OK, ""
