"""What a request gives: its result, and the stream of its text."""

from __future__ import annotations

import contextlib
import functools
import queue
from collections.abc import Callable, Iterator
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass
from typing import TYPE_CHECKING

from densecore.config import GenerationConfig
from densecore.engine import Engine
from densecore.engine.logprobs import TokenLogprob, describe
from densecore.engine.sequence import Event, Finished, TextDelta, Timings, Usage

if TYPE_CHECKING:
    from typing import Self

__all__ = ["GenerationResult", "TextStream", "drain", "result_of"]

_Describer = Callable[..., list[TokenLogprob]]


@dataclass(frozen=True)
class GenerationResult:
    """A finished generation.

    Attributes
    ----------
    text : what was generated, without stop sequences.
    token_ids : its tokens, the end-of-generation token included where there was one.
    finish_reason : ``stop`` (end of generation or of the grammar, or a stop sequence) or ``length``.
    usage : numbers of tokens.
    logprobs : one for each of `token_ids`, with ``logprobs=True``; else None.
    timings : seconds and rates.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    usage: Usage
    logprobs: list[TokenLogprob] | None
    timings: Timings


class TextStream(Iterator[str]):
    """Text of a running request as it comes. Closing it, or dropping it, ends the request.

    `result` is the `GenerationResult` once the stream has ended, None before.
    """

    def __init__(self, engine: Engine, prompt_ids: SequenceOf[int], config: GenerationConfig) -> None:
        self._engine = engine
        self._describe = functools.partial(describe, tokenizer=engine.tokenizer) if config.logprobs else None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._parts: list[str] = []
        self._closed = False
        self.result: GenerationResult | None = None
        self._sequence = engine.submit(prompt_ids, config, self._events.put)

    def __next__(self) -> str:
        if self._closed:
            raise StopIteration
        try:
            event = self._events.get()
        except BaseException:  # Ctrl-C while waiting
            self.close()
            raise
        if isinstance(event, TextDelta):
            self._parts.append(event.text)
            return event.text
        self._closed = True
        self.result = result_of(event, "".join(self._parts), self._describe)
        raise StopIteration

    def close(self) -> None:
        """End the request, if it is still running."""
        if not self._closed:
            self._closed = True
            self._engine.abort(self._sequence)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_sequence"):
            with contextlib.suppress(Exception):  # the interpreter may be going away
                self.close()


def result_of(event: Finished, text: str, describer: _Describer | None = None) -> GenerationResult:
    """The result of a request that ended, or its error."""
    if event.error is not None:
        raise event.error
    logprobs = describer(event.logprobs) if describer else None
    return GenerationResult(text, list(event.token_ids), str(event.finish_reason), event.usage, logprobs, event.timings)


def drain(stream: TextStream) -> GenerationResult:
    """Wait for the end of a stream."""
    for _ in stream:
        pass
    assert stream.result is not None
    return stream.result
