"""One place for all figures: what the documents name is there, and counts what it says."""

from __future__ import annotations

import re

import pytest

from densecore import DenseCore
from densecore.exceptions import TimeoutError
from tests.conftest import shared_path
from tests.engine.waiting import wait_until_idle

# What the server shows, in the words of its description, and the figure of the engine that it comes from.
SERVER_FIGURES = {
    "requests total": "requests_total",
    "active": "active_requests",
    "pending": "waiting_requests",
    "completed": "requests_completed",
    "failed": "requests_failed",
    "prompt and generated tokens": "prompt_tokens_total",
    "tokens per second": "tokens_per_second",
    "time to\n  first token": "time_to_first_token_seconds_p95",
    "inter-token latency": "inter_token_seconds_p95",
    "queue wait": "queue_seconds_p95",
    "KV blocks total and used": "kv_cache_blocks_used",
    "usage percent": "kv_cache_usage_percent",
    "prefix-cache hits": "prefix_cache_hits_total",
    "batch size": "batch_size_p95",
    "preemptions": "preemptions_total",
    "timeouts": "timeouts_total",
}


@pytest.fixture
def model(tiny_path):
    with DenseCore(tiny_path, max_num_seqs=3, speculation="prompt-lookup") as opened:
        yield opened


def test_what_the_api_reference_names(model):
    text = shared_path("docs", "API_REFERENCE.md").read_text()
    names = set(re.findall(r"metrics\['(\w+)'\]", text))
    struct = text[text.index("```c\ntypedef struct {") : text.index("} DenseCoreMetrics;")]
    names |= set(re.findall(r"(\w+);", struct))
    assert len(names) >= 5
    assert names <= set(model.get_metrics())


def test_what_the_server_shows(model):
    text = shared_path("docs", "SERVER.md").read_text()
    paragraph = text[text.index("* Metrics, prefix") :].split("\n* ")[0]
    metrics = model.get_metrics()
    for words, name in SERVER_FIGURES.items():
        assert words in paragraph
        assert name in metrics


def test_counts(model):
    prompt = list(range(3, 40))
    for _ in range(2):  # the second finds the first one's blocks
        model.complete(prompt, max_tokens=2)
    model.complete_batch([[5], [6], [7]], max_tokens=4, ignore_eos=True)
    with pytest.raises(TimeoutError):
        model.complete([8], timeout=1e-9)
    metrics = wait_until_idle(model)
    counts = ("requests_total", "requests_completed", "requests_failed", "timeouts_total", "prefix_cache_hits_total")
    assert [metrics[name] for name in counts] == [6, 5, 1, 1, 1]
    assert metrics["batch_size_p50"] >= 1
    assert metrics["batch_size_p99"] <= 3


def test_acceptance_of_each_request(model):
    model._engine.speculation.adaptive = False
    usages = [model.complete([5, 6, 7, 5, 6], max_tokens=60, temperature=0, ignore_eos=True).usage for _ in range(3)]
    assert usages[0].draft_tokens > 0
    expected = sorted(usage.draft_acceptance for usage in usages)[1]
    assert wait_until_idle(model)["draft_acceptance_p50"] == expected
