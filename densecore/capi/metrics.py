"""The metrics of densecore.h: structures of the same fields in the same order, filled by name."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

__all__ = ["BasicMetrics", "DetailedMetrics", "fill"]

_RATES = ("requests_per_second", "tokens_per_second")
_COUNTS = (
    "requests_total",
    "requests_completed",
    "requests_failed",
    "timeouts_total",
    "preemptions_total",
    "prompt_tokens_total",
    "prompt_tokens_cached_total",
    "total_tokens_generated",
)
_DISTRIBUTIONS = (
    "time_to_first_token_seconds",
    "inter_token_seconds",
    "queue_seconds",
    "request_seconds",
    "batch_size",
)
_BLOCKS = ("total", "used", "free", "cached")


class BasicMetrics(ctypes.Structure):
    """``DenseCoreMetrics``."""

    _fields_ = [
        *((name, ctypes.c_float) for name in _RATES),
        ("active_requests", ctypes.c_int),
        ("total_tokens_generated", ctypes.c_long),
    ]


class DetailedMetrics(ctypes.Structure):
    """``DetailedMetrics``."""

    _fields_ = [
        *((name, ctypes.c_double) for name in (*_RATES, "computed_tokens_per_second")),
        *((name, ctypes.c_longlong) for name in _COUNTS),
        *((name, ctypes.c_int) for name in ("active_requests", "waiting_requests")),
        *((f"{name}_p{percent}", ctypes.c_double) for name in _DISTRIBUTIONS for percent in (50, 95, 99)),
        ("kv_cache_usage_percent", ctypes.c_double),
        *((f"kv_cache_blocks_{name}", ctypes.c_longlong) for name in _BLOCKS),
        ("kv_cache_bytes", ctypes.c_longlong),
        ("num_threads", ctypes.c_int),
    ]


def fill(metrics: ctypes.Structure, values: Mapping[str, Any]) -> None:
    """Set each field to the value of its name."""
    for name, *_ in metrics._fields_:
        setattr(metrics, name, values[name])
