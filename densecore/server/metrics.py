"""Figures for Prometheus: counted by the server over all models, and read from their engines when asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi import APIRouter
from fastapi import Request as HttpRequest
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from densecore.llm import DenseCore
from densecore.server.records import RequestRecord

__all__ = ["ServerMetrics", "router"]

router = APIRouter()

TOKEN_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)  # seconds
REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)

# Name after the prefix -> (key of DenseCore.get_metrics, help). Counters of models that are gone are kept in sums.
GAUGES = {
    "tokens_per_second": ("tokens_per_second", "Decode rate of a request in the last minute, without first tokens"),
    "kv_cache_blocks": ("kv_cache_blocks_total", "Blocks of the KV cache"),
    "kv_cache_blocks_used": ("kv_cache_blocks_used", "Blocks that requests hold"),
    "kv_cache_bytes": ("kv_cache_bytes", "Memory of the KV cache"),
    "batch_size": ("active_requests", "Requests that a step works on"),
    "requests_pending": ("waiting_requests", "Requests that wait for their turn in the engine"),
}
COUNTERS = {
    "preemptions": ("preemptions_total", "Requests that gave up their blocks to others, and were computed again"),
    "prefix_cache_hit_tokens": ("prompt_tokens_cached_total", "Tokens of prompts that were found in the KV cache"),
}


class ServerMetrics:
    """Counts requests as they end; `models` are read at each scrape."""

    def __init__(self) -> None:
        self.models: Callable[[], Iterable[DenseCore]] = list
        self._gone = dict.fromkeys(COUNTERS, 0.0)  # what models counted that are unloaded now
        self._seconds: deque[float] = deque(maxlen=64)  # of the last requests
        self.registry = CollectorRegistry()
        self._requests = self._counter("requests", "Requests for generation, embeddings and ranks")
        self._completed = self._counter("requests_completed", "Requests that got their answer")
        self._failed = self._counter("requests_failed", "Requests that ended with an error")
        self._cancelled = self._counter("requests_cancelled", "Requests whose client went away")
        self._timeouts = self._counter("requests_timeout", "Requests that ran past their deadline")
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts")
        self._generated = self._counter("generated_tokens", "Tokens of answers")
        self._active = Gauge("densecore_requests_active", "Requests that are served now", registry=self.registry)
        self._first_token = self._histogram("time_to_first_token_seconds", "Until the first token", REQUEST_BUCKETS)
        self._between = self._histogram("inter_token_latency_seconds", "Between pieces of an answer", TOKEN_BUCKETS)
        self._queue = self._histogram("queue_wait_seconds", "Until the engine began", REQUEST_BUCKETS)
        self._whole = self._histogram("request_duration_seconds", "Of a whole request", REQUEST_BUCKETS)
        self.num_active = 0
        self.registry.register(self)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"densecore_{name}", text, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"densecore_{name}", text, buckets=buckets, registry=self.registry)

    def begin(self) -> None:
        """A request for generation has come."""
        self.num_active += 1
        self._requests.inc()
        self._active.inc()

    def end(self, record: RequestRecord) -> None:
        """It has ended."""
        self.num_active -= 1
        self._active.dec()
        if record.cancelled:
            self._cancelled.inc()
        elif record.error is not None or record.status >= 400:
            self._failed.inc()
            self._timeouts.inc(record.error == "timeout")
        else:
            self._completed.inc()
            self._seconds.append(record.seconds)
            self._whole.observe(record.seconds)
        self._prompt_tokens.inc(record.prompt_tokens)
        for gap in record.gaps:
            self._between.observe(gap)
        for result in record.results:
            self._prompt_tokens.inc(result.usage.prompt_tokens)
            self._generated.inc(result.usage.completion_tokens)
            self._queue.observe(result.timings.queue_seconds)
            self._first_token.observe(result.timings.time_to_first_token)

    def expected_seconds(self) -> float:
        """After how long somebody who was turned away may try again: what requests took lately, 1 to 30 s."""
        mean = sum(self._seconds) / len(self._seconds) if self._seconds else 1.0
        return min(max(mean, 1.0), 30.0)

    def keep(self, model: DenseCore) -> None:
        """Remember the counters of a model that is about to be unloaded."""
        figures = model.get_metrics()
        for name, (key, _) in COUNTERS.items():
            self._gone[name] += figures[key]

    def collect(self) -> Iterator[Metric]:
        """What is read from the engines of all models that are loaded."""
        figures = [model.get_metrics() for model in self.models()]
        for name, (key, text) in GAUGES.items():
            yield GaugeMetricFamily(f"densecore_{name}", text, value=_sum(figures, key))
        for name, (key, text) in COUNTERS.items():
            yield CounterMetricFamily(f"densecore_{name}", text, value=self._gone[name] + _sum(figures, key))
        blocks = _sum(figures, "kv_cache_blocks_total")
        usage = 100 * _sum(figures, "kv_cache_blocks_used") / blocks if blocks else 0.0
        yield GaugeMetricFamily("densecore_kv_cache_usage_percent", "Part of the blocks that requests hold", usage)
        yield GaugeMetricFamily("densecore_models_loaded", "Models that are loaded", len(figures))


def _sum(figures: list[dict[str, Any]], key: str) -> float:
    return float(sum(each[key] for each in figures))


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(http: HttpRequest) -> Response:
    """All figures, in Prometheus' text format; also while no model is loaded."""
    return Response(generate_latest(http.app.state.service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
