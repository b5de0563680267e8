"""OpenTelemetry traces: what spans tell, whose trace they are in, and that they reach a collector."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from densecore.cli import main
from densecore.server.logs import logging_to_stderr
from densecore.server.tracing import Tracing

from .conftest import Running, running
from .test_cli import serving

CHAT = "/v1/chat/completions"
ASK = {"messages": [{"role": "user", "content": "a secret"}], "max_tokens": 5, "ignore_eos": True}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Traced:
    """A server, and the spans that have ended since the last look."""

    def __init__(self, server: Running, exporter: InMemorySpanExporter) -> None:
        self.server, self.exporter = server, exporter

    def spans(self, count: int) -> list[ReadableSpan]:
        """Waits for so many; the request's own is the last."""
        self.server.wait_until(lambda: len(self.exporter.get_finished_spans()) >= count, 5)
        found = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        assert len(found) == count
        return found


@pytest.fixture(scope="module")
def traced(tiny_path) -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    with running({"tiny": tiny_path}, tracing=Tracing(SimpleSpanProcessor(exporter))) as server:
        yield Traced(server, exporter)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_request_and_its_phases(traced: Traced, stream: bool) -> None:
    before = time.time_ns()
    answer = traced.server.post(CHAT, **ASK, stream=stream)
    assert answer.status_code == 200
    *children, request = traced.spans(4)
    after = time.time_ns()
    assert (request.name, request.kind) == (f"POST {CHAT}", SpanKind.SERVER)
    assert request.parent is None
    assert request.status.status_code is StatusCode.UNSET
    told = dict(request.attributes)
    assert told["gen_ai.usage.input_tokens"] > 0
    assert told.pop("densecore.time_to_first_token") > 0
    expected = {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": CHAT,
        "url.path": CHAT,
        "densecore.request_id": answer.headers["x-request-id"],
        "densecore.stream": stream,
        "densecore.cached_tokens": told["densecore.cached_tokens"],
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "densecore",
        "gen_ai.response.model": "tiny",
        "gen_ai.usage.input_tokens": told["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ("length",),
    }
    assert told == expected
    assert [child.name for child in children] == ["queue", "prefill", "decode"]
    assert all(child.parent.span_id == request.context.span_id for child in children)
    moments = [request.start_time, *(moment for child in children for moment in (child.start_time, child.end_time))]
    moments = [before, *moments, request.end_time, after]
    assert all(earlier <= later + 1000 for earlier, later in itertools.pairwise(moments))  # ns: rounding
    assert children[1].attributes["gen_ai.usage.input_tokens"] == told["gen_ai.usage.input_tokens"]
    assert children[2].attributes["densecore.tokens_per_second"] > 0
    assert "secret" not in "".join(span.to_json() for span in [*children, request])


def test_each_answer_has_its_phases(traced: Traced) -> None:
    traced.server.post("/v1/completions", prompt=["ab", "cd"], n=2, max_tokens=3, ignore_eos=True)
    *children, request = traced.spans(13)
    assert [child.attributes["densecore.answer"] for child in children if child.name == "decode"] == [0, 1, 2, 3]
    assert request.attributes["gen_ai.usage.output_tokens"] == 12
    assert request.attributes["gen_ai.operation.name"] == "text_completion"


@pytest.mark.parametrize("sampled", [True, False], ids=["sampled", "not sampled"])
def test_the_trace_of_the_client_goes_on(traced: Traced, sampled: bool, capsys: pytest.CaptureFixture[str]) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-0{int(sampled)}", "tracestate": "vendor=1"}
    with logging_to_stderr("info", "json"):
        traced.server.http.post(CHAT, json=ASK, headers=headers)
        traced.server.wait_until(lambda: traced.server.service.metrics.num_active == 0)
        spans = traced.spans(4 if sampled else 0)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["trace_id"] for line in lines if line.get("path") == CHAT] == [TRACE]
    assert {f"{span.context.trace_id:032x}" for span in spans} == ({TRACE} if sampled else set())
    if sampled:
        assert f"{spans[-1].parent.span_id:016x}" == PARENT
        assert spans[-1].context.trace_state.get("vendor") == "1"


@pytest.mark.parametrize(
    "header", ["", "x" * 5000, "00-0-0-01", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01"]
)
def test_what_is_no_trace_begins_a_new_one(traced: Traced, header: str) -> None:
    assert traced.server.http.post(CHAT, json=ASK, headers={"traceparent": header}).status_code == 200
    assert traced.spans(4)[-1].parent is None


def test_errors(traced: Traced) -> None:
    traced.server.post(CHAT, **(ASK | {"temperature": -1}))
    (bad,) = traced.spans(1)
    assert (bad.attributes["http.response.status_code"], bad.attributes["error.type"]) == (400, "invalid_request_error")
    assert bad.status.status_code is StatusCode.UNSET  # the client's mistake, not the server's
    traced.server.post(CHAT, **ASK, timeout=1e-6, stream=True)
    (late,) = traced.spans(1)
    assert (late.attributes["http.response.status_code"], late.attributes["error.type"]) == (200, "timeout")
    assert late.status.status_code is StatusCode.ERROR
    traced.server.post("/v1/responses")
    (later,) = traced.spans(1)
    assert later.status.status_code is StatusCode.ERROR
    traced.server.http.get("/no/such/place")
    assert traced.spans(1)[0].name == "GET"  # names of spans are few


def test_probes_are_not_traced(traced: Traced) -> None:
    for path in ("/", "/health", "/health/live", "/metrics"):
        assert traced.server.http.get(path).status_code == 200
    traced.server.http.get("/v1/models/tiny")
    assert traced.spans(1)[0].name == "GET /v1/models/{name:path}"


class Collector(BaseHTTPRequestHandler):
    """Receives OTLP over HTTP, and keeps what came: (path, content type, body)."""

    received: list[tuple[str, str, bytes]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.received.append((self.path, self.headers["Content-Type"], body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, str, bytes]]]]:
    """The address of a collector, and what it has received."""
    handler = type("Handler", (Collector,), {"received": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.received
        server.shutdown()


def test_a_collector_gets_all_spans_before_the_end(tiny_path, collector) -> None:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    endpoint, received = collector
    variables = {"TRACING_ENABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SERVICE_NAME": "mine"}
    with serving("-m", tiny_path, **variables) as (process, client):
        for _ in range(3):
            client.post(CHAT, json=ASK, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
    names: list[str] = []
    for path, kind, body in received:
        assert (path, kind) == ("/v1/traces", "application/x-protobuf")
        (resource,) = ExportTraceServiceRequest.FromString(body).resource_spans
        told = {entry.key: entry.value.string_value for entry in resource.resource.attributes}
        assert told["service.name"] == "mine"
        spans = [span for scope in resource.scope_spans for span in scope.spans]
        assert {span.trace_id.hex() for span in spans} == {TRACE}
        names += [span.name for span in spans]
    assert sorted(names) == sorted(3 * [f"POST {CHAT}", "queue", "prefill", "decode"])


def test_a_collector_that_is_away_holds_up_nobody(tiny_path) -> None:
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with serving("-m", tiny_path, "--tracing", **variables) as (process, client):
        assert client.post(CHAT, json=ASK).status_code == 200
        time.sleep(0.3)
        started = time.monotonic()
        assert client.post(CHAT, json=ASK).status_code == 200
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0
        assert time.monotonic() - started < 10
    lines = [json.loads(line) for line in err.decode().splitlines()]
    assert any(line["logger"].startswith("opentelemetry") for line in lines)


def test_what_is_said_after_the_end_is_not_written() -> None:
    code = """
import logging
from densecore.server.logs import logging_to_stderr
with logging_to_stderr("info", "json"):
    logging.getLogger("opentelemetry.exporter").error("in time")
logging.getLogger("opentelemetry.exporter").error("late")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [json.loads(line)["message"] for line in done.stderr.splitlines()] == ["in time"]


def test_nothing_is_imported_unless_it_is_on(tiny_path) -> None:
    code = """
import sys
from pathlib import Path
from densecore.server.app import create_app
from densecore.server.registry import ModelEntry, load_model
from densecore.server.settings import ServerSettings
for on in (False, True):
    create_app(ServerSettings(tracing_enabled=on), [ModelEntry("m", Path("m.gguf"))], lambda entry: None)
    assert ("opentelemetry.sdk" in sys.modules) == on  # FastAPI imports the API where it is installed
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr


def test_without_the_extra_it_is_told_what_to_install(tiny_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk", None)
    assert main(["serve", "-m", str(tiny_path), "--tracing"]) == 1
    assert "pip install 'densecore[tracing]'" in capsys.readouterr().err
