"""Log lines: JSON, or text for people. Requests are one line each, without prompts and keys."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["log_request", "logging_to_stderr"]

LOGGERS = ("densecore", "uvicorn.error", "opentelemetry")

logger = logging.getLogger("densecore.server.requests")


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        fields: Mapping[str, Any] | None = getattr(record, "fields", None)
        line |= fields if fields is not None else {"message": record.getMessage()}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class _TextFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, Any] | None = getattr(record, "fields", None)
        text = (
            record.getMessage()
            if fields is None
            else " ".join(f"{name}={json.dumps(value)}" for name, value in fields.items())
        )
        line = f"{_time(record)} {record.levelname.lower()} {text}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@contextlib.contextmanager
def logging_to_stderr(level: str, format: str) -> Iterator[None]:
    """Within the context lines of this package, of uvicorn and of OpenTelemetry go to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(log.handlers[:], log.propagate, log.level) for log in loggers]
    for log in loggers:
        log.handlers[:], log.propagate = [handler], False
        log.setLevel(level.upper())
    try:
        yield
    finally:
        for log, (handlers, propagate, old_level) in zip(loggers, before, strict=True):
            # Threads of OpenTelemetry may live on, and Python would write lines of loggers without handlers to stderr.
            log.handlers[:], log.propagate = handlers or [logging.NullHandler()], propagate
            log.setLevel(old_level)


def log_request(fields: Mapping[str, Any]) -> None:
    """The line of a request that has ended."""
    logger.info("request", extra={"fields": fields})
