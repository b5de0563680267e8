"""What is noted about one request, for the log and the metrics: counts and times, never texts or keys."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from densecore.llm import GenerationResult

__all__ = ["RequestRecord"]


@dataclass
class RequestRecord:
    """One request from its first byte to its last."""

    request_id: str
    method: str
    path: str
    started: float = field(default_factory=time.perf_counter)
    status: int = 0
    model: str | None = None
    stream: bool = False
    generates: bool = False  # whether it has reached the engine, or would have
    prompt_tokens: int = 0  # of texts that are embedded or ranked
    error: str | None = None  # code or type of an error
    complete: bool = False  # whether all of the answer was sent
    cancelled: bool = False  # the client went away before
    trace_id: str | None = None  # where it is traced
    results: list[GenerationResult] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)  # seconds between pieces that were sent
    _last: float | None = None

    def token_sent(self) -> None:
        """A piece of text has come."""
        now = time.perf_counter()
        if self._last is not None:
            self.gaps.append(now - self._last)
        self._last = now

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def to_json(self) -> dict[str, Any]:
        """The line of the log."""
        line: dict[str, Any] = {
            "request_id": self.request_id,
            "method": self.method,
            "path": self.path,
            "status": self.status,
            "seconds": round(self.seconds, 6),
        }
        if self.trace_id is not None:
            line["trace_id"] = self.trace_id
        if self.model is not None:
            line |= {"model": self.model, "stream": self.stream}
        if self.prompt_tokens:
            line["prompt_tokens"] = self.prompt_tokens
        if self.results:
            line |= self._figures()
        if self.error is not None:
            line["error"] = self.error
        if self.cancelled:
            line["cancelled"] = True
        return line

    def _figures(self) -> dict[str, Any]:
        first = self.results[0]
        return {
            "prompt_tokens": first.usage.prompt_tokens,
            "cached_tokens": first.usage.cached_tokens,
            "completion_tokens": sum(result.usage.completion_tokens for result in self.results),
            "finish_reason": [result.finish_reason for result in self.results],
            "queue_seconds": round(max(result.timings.queue_seconds for result in self.results), 6),
            "time_to_first_token_seconds": round(min(r.timings.time_to_first_token for r in self.results), 6),
            "tokens_per_second": round(first.timings.tokens_per_second, 3),
        }
