"""One form for every complaint about a file: a single line with file, field, value and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from densecore.exceptions import ModelLoadError

__all__ = ["describe", "load_error", "printable"]


def load_error(path: str | Path, field: str, problem: str, allowed: str, offset: int | None = None) -> ModelLoadError:
    """A ModelLoadError that reads ``FILE: FIELD at byte OFFSET PROBLEM; allowed: ALLOWED``, to be raised.

    `field` and `problem` quote what a file contains through `describe`, so that it cannot break the line.
    """
    where = "" if offset is None else f" at byte {offset}"
    return ModelLoadError(f"{printable(path)}: {field}{where} {problem}; allowed: {allowed}")


def describe(value: Any, limit: int = 80) -> str:
    """`value` as Python writes it, without line breaks and shortened to about `limit` characters."""
    if isinstance(value, str | bytes) and len(value) > limit:
        return f"{value[:limit]!r}... ({len(value)} {'bytes' if isinstance(value, bytes) else 'characters'})"
    text = " ".join(repr(value).split())
    return text if len(text) <= limit else f"{text[:limit]}..."


def printable(path: str | Path) -> str:
    """`path` as it is, or quoted if it contains line breaks or other characters that do not print."""
    text = str(path)
    return text if text.isprintable() else repr(text)
