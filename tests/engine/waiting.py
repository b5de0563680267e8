"""Waiting for an engine to come to rest."""

from __future__ import annotations

import time

from densecore import DenseCore


def wait_until_idle(model: DenseCore, seconds: float = 10) -> dict:
    """Metrics once no request is left; an abort takes effect at the next step."""
    end = time.monotonic() + seconds
    while (metrics := model.get_metrics())["active_requests"] + metrics["waiting_requests"]:
        assert time.monotonic() < end, metrics
        time.sleep(0.01)
    assert metrics["kv_cache_blocks_free"] == metrics["kv_cache_blocks_total"]
    return metrics
