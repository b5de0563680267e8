"""OpenTelemetry traces: a span for each request, and below it what each answer waited for and was computed in.

Needs the extra ``[tracing]``, and is imported only where tracing is on. Where spans go, which part of them, and under
which name of a service is said by OpenTelemetry's own variables, such as ``OTEL_EXPORTER_OTLP_ENDPOINT``.
Attributes have the names of OpenTelemetry's semantic conventions for HTTP and for generative AI, where there is one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import densecore
from densecore.llm import GenerationResult
from densecore.server.probes import OPEN_PATHS
from densecore.server.records import RequestRecord

__all__ = ["Tracing"]

UNTRACED = (*OPEN_PATHS, "/metrics")  # asked all the time by machines, and never interesting
OPERATIONS = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion", "/v1/embeddings": "embeddings"}
MAX_ANSWERS = 32  # of a request that have spans of their own
CLOSE_SECONDS = 3.0


class Tracing:
    """Begins and ends the spans of requests. No texts and no keys are ever in them.

    processor : what becomes of spans that have ended; by default they are sent by OTLP over HTTP, from a thread
    """

    def __init__(self, processor: SpanProcessor | None = None) -> None:
        told = OTELResourceDetector().detect().attributes  # of OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        resource = Resource.create({"service.name": "densecore", "service.version": densecore.__version__} | dict(told))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("densecore.server", densecore.__version__)
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, headers: Mapping[str, str], record: RequestRecord) -> Span | None:
        """The span of a request that has come, in the trace that its ``traceparent`` names, or in a new one."""
        if record.path in UNTRACED:
            return None
        parent = self._propagator.extract(headers, context=Context())
        span = self._tracer.start_span(record.method, parent, SpanKind.SERVER)
        record.trace_id = format_trace_id(span.get_span_context().trace_id)
        return span

    def end(self, span: Span | None, scope: MutableMapping[str, Any], record: RequestRecord) -> None:
        """The request has ended: tell what became of it."""
        if span is None or not span.is_recording():
            return
        route = getattr(scope.get("route"), "path", None)
        if route is not None:
            span.update_name(f"{record.method} {route}")
            span.set_attribute("http.route", route)
        span.set_attributes(_of_request(record))
        if record.results:
            span.set_attributes(_of_results(record.results))
        if record.error is not None and (record.status >= 500 or record.status < 400):  # or it came in a stream
            span.set_status(StatusCode.ERROR, record.error)
        below = set_span_in_context(span)
        for index, result in enumerate(record.results[:MAX_ANSWERS]):
            for name, start, end, attributes in _phases(result):
                child = self._tracer.start_span(
                    name, below, attributes={"densecore.answer": index} | attributes, start_time=_epoch_ns(start)
                )
                child.end(_epoch_ns(end))
        span.end()

    def close(self) -> None:
        """Send what is left, unless that takes too long: a collector may be away. Not for the event loop."""
        sending = threading.Thread(target=self._provider.shutdown, name="densecore-tracing", daemon=True)
        sending.start()
        sending.join(CLOSE_SECONDS)


def _of_request(record: RequestRecord) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "http.request.method": record.method,
        "http.response.status_code": record.status,
        "url.path": record.path,
        "densecore.request_id": record.request_id,
    }
    if record.path in OPERATIONS:
        attributes |= {"gen_ai.operation.name": OPERATIONS[record.path], "gen_ai.provider.name": "densecore"}
        attributes["densecore.stream"] = record.stream
    if record.model is not None:
        attributes["gen_ai.response.model"] = record.model
    if record.error is not None:
        attributes["error.type"] = record.error
    if record.cancelled:
        attributes["densecore.cancelled"] = True
    return attributes


def _of_results(results: list[GenerationResult]) -> dict[str, Any]:
    return {
        "gen_ai.usage.input_tokens": results[0].usage.prompt_tokens,
        "gen_ai.usage.output_tokens": sum(result.usage.completion_tokens for result in results),
        "gen_ai.response.finish_reasons": [result.finish_reason for result in results],
        "densecore.cached_tokens": results[0].usage.cached_tokens,
        "densecore.time_to_first_token": min(result.timings.time_to_first_token for result in results),
    }


def _phases(result: GenerationResult) -> Iterator[tuple[str, float, float, dict[str, Any]]]:
    """Name, start and end (`time.perf_counter` seconds), and attributes of what an answer went through."""
    timings, usage = result.timings, result.usage
    started = timings.submitted + timings.queue_seconds
    first = started + timings.prompt_seconds
    yield "queue", timings.submitted, started, {}
    prompt = {"gen_ai.usage.input_tokens": usage.prompt_tokens, "densecore.cached_tokens": usage.cached_tokens}
    yield "prefill", started, first, prompt
    output = {
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.response.finish_reasons": [result.finish_reason],
        "densecore.tokens_per_second": timings.tokens_per_second,
    }
    yield "decode", first, first + timings.decode_seconds, output


def _epoch_ns(moment: float) -> int:
    """Of `time.perf_counter` seconds, the nanoseconds since 1970."""
    return time.time_ns() - round(1e9 * (time.perf_counter() - moment))
