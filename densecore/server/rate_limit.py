"""A token bucket for each client."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimiter"]

MAX_CLIENTS = 10_000  # that are remembered; the one that came least lately goes


class RateLimiter:
    """`rate` requests a second in the long run, `burst` at once.

    A bucket holds up to `burst` tokens and gains `rate` a second; a request takes one, or is refused.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> (tokens, when that was)

    def take(self, client: str) -> float:
        """0 if the client may go on, else the seconds until it may."""
        now = self._clock()
        tokens, since = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self._rate
        self._buckets[client] = (tokens if wait else tokens - 1, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        return wait
