"""Counts and rates of an engine, for `DenseCore.get_metrics`."""

from __future__ import annotations

import threading
import time
from collections import deque

from densecore.engine.sequence import Finished

__all__ = ["Metrics"]

WINDOW_SECONDS = 60.0  # over which current rates are taken
MAX_RECENT = 4096


class Metrics:
    """Counters since the start; `finished` and `step` come from the kernel thread, `snapshot` from anywhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests_total = self.requests_completed = self.requests_failed = 0
        self.prompt_tokens_total = self.generated_tokens_total = 0
        self._recent: deque[tuple[float, float, int]] = deque(maxlen=MAX_RECENT)  # end, seconds, tokens
        self._first_token_seconds: deque[float] = deque(maxlen=MAX_RECENT)

    def submitted(self) -> None:
        with self._lock:
            self.requests_total += 1

    def finished(self, event: Finished) -> None:
        """Take the counts of a request that ended."""
        timings = event.timings
        with self._lock:
            if event.error is None:
                self.requests_completed += 1
            else:
                self.requests_failed += 1
            self.prompt_tokens_total += event.usage.prompt_tokens
            self.generated_tokens_total += event.usage.completion_tokens
            if event.usage.completion_tokens:
                self._first_token_seconds.append(timings.time_to_first_token)
            if timings.decode_tokens:
                self._recent.append((time.perf_counter(), timings.decode_seconds, timings.decode_tokens))

    def snapshot(self) -> dict[str, float]:
        """The values that come from requests; `tokens_per_second` is a request's decode rate over the last minute."""
        horizon = time.perf_counter() - WINDOW_SECONDS
        with self._lock:
            recent = [entry for entry in self._recent if entry[0] >= horizon]
            seconds = sum(entry[1] for entry in recent)
            waits = sorted(self._first_token_seconds)
            return {
                "tokens_per_second": sum(entry[2] for entry in recent) / seconds if seconds > 0 else 0.0,
                "requests_total": self.requests_total,
                "requests_completed": self.requests_completed,
                "requests_failed": self.requests_failed,
                "prompt_tokens_total": self.prompt_tokens_total,
                "total_tokens_generated": self.generated_tokens_total,
                "time_to_first_token_seconds_p50": waits[len(waits) // 2] if waits else 0.0,
            }
