"""Counts, rates and latencies of an engine, for `DenseCore.get_metrics`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable

from densecore.engine.scheduler import Scheduled
from densecore.engine.sequence import Finished
from densecore.exceptions import TimeoutError

__all__ = ["Metrics", "percentiles"]

WINDOW_SECONDS = 60.0  # over which current rates are taken
MAX_RECENT = 4096  # of each kind that latencies are taken from
PERCENTILES = (50, 95, 99)


def percentiles(name: str, values: Iterable[float]) -> dict[str, float]:
    """`name`_p50, _p95 and _p99 of the values, the nearest ones that occur; 0 without any."""
    ordered = sorted(values)
    ranks = {percent: min(len(ordered) * percent // 100, len(ordered) - 1) for percent in PERCENTILES}
    return {f"{name}_p{percent}": ordered[rank] if ordered else 0.0 for percent, rank in ranks.items()}


class Recent:
    """Amounts of the last `WINDOW_SECONDS`, as (time, seconds that it took, number) each."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, float, int]] = deque(maxlen=MAX_RECENT)
        self._since = time.perf_counter()

    def add(self, seconds: float, number: int) -> None:
        self._entries.append((time.perf_counter(), seconds, number))

    def sums(self) -> tuple[float, float, int]:
        """Seconds that the window is long, seconds that were taken, and the number."""
        now = time.perf_counter()
        entries = [entry for entry in self._entries if entry[0] >= now - WINDOW_SECONDS]
        full = len(self._entries) == MAX_RECENT == len(entries)
        start = entries[0][0] if full else max(self._since, now - WINDOW_SECONDS)
        return max(now - start, 1e-9), sum(entry[1] for entry in entries), sum(entry[2] for entry in entries)


class Metrics:
    """Counters since the start; `finished` and `step` come from the kernel thread, `snapshot` from anywhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.requests_total = self.requests_completed = self.requests_failed = 0
        self.timeouts_total = self.prefix_cache_hits_total = 0
        self.prompt_tokens_total = self.cached_tokens_total = self.generated_tokens_total = 0
        self.draft_tokens_total = self.draft_tokens_accepted_total = 0  # of speculation
        self._requests, self._decoded, self._computed = Recent(), Recent(), Recent()
        self._first_token, self._between, self._queue, self._whole = (deque[float](maxlen=MAX_RECENT) for _ in range(4))
        self._batch_sizes, self._acceptance = deque[float](maxlen=MAX_RECENT), deque[float](maxlen=MAX_RECENT)

    def submitted(self) -> None:
        with self._lock:
            self.requests_total += 1

    def step(self, batch: list[Scheduled], seconds: float) -> None:
        """Take the times of a step that has been processed."""
        self.computed(len(batch), sum(entry.num_tokens for entry in batch), seconds)
        gaps = [entry.sequence.last_gap for entry in batch if entry.decodes]
        with self._lock:
            self._between.extend(gap for gap in gaps if gap is not None)

    def computed(self, num_requests: int, num_tokens: int, seconds: float) -> None:
        """A step computed tokens of so many requests."""
        with self._lock:
            self._computed.add(seconds, num_tokens)
            self._batch_sizes.append(num_requests)

    def finished(self, event: Finished) -> None:
        """Take the counts of a request that ended."""
        timings, usage = event.timings, event.usage
        whole = timings.time_to_first_token + timings.decode_seconds
        with self._lock:
            if event.error is None:
                self.requests_completed += 1
            else:
                self.requests_failed += 1
                self.timeouts_total += isinstance(event.error, TimeoutError)
            self.prefix_cache_hits_total += usage.cached_tokens > 0
            self.prompt_tokens_total += usage.prompt_tokens
            self.cached_tokens_total += usage.cached_tokens
            self.generated_tokens_total += usage.completion_tokens
            self.draft_tokens_total += usage.draft_tokens
            self.draft_tokens_accepted_total += usage.accepted_draft_tokens
            if usage.draft_tokens:
                self._acceptance.append(usage.draft_acceptance)
            self._requests.add(whole, 1)
            self._queue.append(timings.queue_seconds)
            self._whole.append(whole)
            if usage.completion_tokens:
                self._first_token.append(timings.time_to_first_token)
            if timings.decode_tokens:
                self._decoded.add(timings.decode_seconds, timings.decode_tokens)

    def snapshot(self) -> dict[str, float]:
        """The values that come from requests and steps; rates are those of the last minute."""
        with self._lock:
            window, _, num_requests = self._requests.sums()
            _, decode_seconds, num_decoded = self._decoded.sums()
            _, busy_seconds, num_computed = self._computed.sums()
            return {
                "tokens_per_second": num_decoded / decode_seconds if decode_seconds > 0 else 0.0,
                "computed_tokens_per_second": num_computed / busy_seconds if busy_seconds > 0 else 0.0,
                "requests_per_second": num_requests / window,
                "requests_total": self.requests_total,
                "requests_completed": self.requests_completed,
                "requests_failed": self.requests_failed,
                "timeouts_total": self.timeouts_total,
                "prefix_cache_hits_total": self.prefix_cache_hits_total,
                "prompt_tokens_total": self.prompt_tokens_total,
                "prompt_tokens_cached_total": self.cached_tokens_total,
                "total_tokens_generated": self.generated_tokens_total,
                "draft_tokens_total": self.draft_tokens_total,
                "draft_tokens_accepted_total": self.draft_tokens_accepted_total,
                **percentiles("time_to_first_token_seconds", self._first_token),
                **percentiles("inter_token_seconds", self._between),
                **percentiles("queue_seconds", self._queue),
                **percentiles("request_seconds", self._whole),
                **percentiles("batch_size", self._batch_sizes),
                **percentiles("draft_acceptance", self._acceptance),
            }
