"""A running request for asyncio: its text piece by piece, with what is known about each piece."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from densecore.config import GenerationConfig
from densecore.engine import Engine
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.logprobs import TokenLogprob, describe
from densecore.engine.sequence import Event, TextDelta
from densecore.results import GenerationResult, result_of

if TYPE_CHECKING:
    from typing import Self

__all__ = ["AsyncTextStream", "TextPiece"]


@dataclass(frozen=True)
class TextPiece:
    """New text, never empty, and with ``logprobs=True`` the tokens since the piece before."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class _Mailbox:
    """Brings events from the kernel thread to an event loop, which is woken once for all that come together.

    To wake a loop takes a system call, and a step of the engine has an event for each of its requests. It is woken when
    the next step computes.
    """

    _of_loops: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mailbox]] = weakref.WeakKeyDictionary()

    @classmethod
    def of_running_loop(cls) -> _Mailbox:
        """The one that all streams of a loop share. On the loop."""
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loops:
            cls._of_loops[loop] = cls(loop)
        return cls._of_loops[loop]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._waiting: deque[tuple[Callable[[Event], None], Event]] = deque()
        self._is_woken = False

    def put(self, receiver: Callable[[Event], None], event: Event) -> None:
        """Let the loop give `event` to `receiver`. RuntimeError if the loop has ended. On the kernel thread."""
        loop = self._loop()
        if loop is None or loop.is_closed():
            raise RuntimeError("the event loop of this request has ended")
        self._waiting.append((receiver, event))  # before the look, so that the loop sees it if it is on its way
        if not self._is_woken:
            self._is_woken = True
            kernel_thread.defer(self._wake)

    def _wake(self) -> None:
        loop = self._loop()
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended since, as the next event will find
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._is_woken = False  # before the first look: who comes after the last one wakes the loop again
        while self._waiting:
            receiver, event = self._waiting.popleft()
            receiver(event)


class AsyncTextStream(AsyncIterator[TextPiece]):
    """Pieces of a request's text as they come; computing does not block the event loop.

    ::

        async with await model.open_stream("Once upon a time", max_tokens=20) as stream:
            async for piece in stream:
                print(piece.text)
            print(stream.result.usage)

    `result` is the `GenerationResult` once the stream has ended, None before. Leaving the context, or dropping the
    stream, ends the request.
    """

    @classmethod
    async def open(cls, engine: Engine, prompt_ids: SequenceOf[int], config: GenerationConfig) -> Self:
        """Start a request; a grammar is compiled first, where it blocks nobody."""
        if config.structure:
            await asyncio.to_thread(engine.samplers.constraint, config)  # it is kept for `submit`
        return cls(engine, prompt_ids, config)

    def __init__(self, engine: Engine, prompt_ids: SequenceOf[int], config: GenerationConfig) -> None:
        self._engine = engine
        self._describe = functools.partial(describe, tokenizer=engine.tokenizer)
        self._wants_logprobs = config.logprobs
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._put: Callable[[Event], None] = self._events.put_nowait
        self._mailbox = _Mailbox.of_running_loop()
        self._parts: list[str] = []
        self._ended = False
        self.result: GenerationResult | None = None
        self._sequence = engine.submit(prompt_ids, config, self._emit)

    def _emit(self, event: Event) -> None:
        """On the kernel thread. A loop that has ended raises here, which ends the request."""
        self._mailbox.put(self._arrive, event)

    def _arrive(self, event: Event) -> None:
        self._put(event)

    def redirect(self, put: Callable[[Event], None]) -> None:
        """Events, those that wait included, go to `put` on the event loop from now on; `take` says what they are.

        For who waits for several streams at once.
        """
        self._put = put
        while not self._events.empty():
            put(self._events.get_nowait())

    async def __anext__(self) -> TextPiece:
        if self._ended:
            raise StopAsyncIteration
        piece = self.take(await self._events.get())
        if piece is None:
            raise StopAsyncIteration
        return piece

    def take(self, event: Event) -> TextPiece | None:
        """The piece that an event is; None for the end, after which there is a `result`. Raises what failed."""
        if isinstance(event, TextDelta):
            self._parts.append(event.text)
            return TextPiece(event.text, tuple(self._describe(event.logprobs)) if event.logprobs else ())
        self._ended = True
        self.result = result_of(event, "".join(self._parts), self._describe if self._wants_logprobs else None)
        return None

    def close(self) -> None:
        """End the request, if it is still running."""
        if not self._ended:
            self._ended = True
            self._engine.abort(self._sequence)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_sequence") and not self._ended:
            self._engine.abort(self._sequence)
