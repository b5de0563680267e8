"""JSON files of a checkpoint: small, regular, one object, and each complaint one line that names the file."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe, load_error, printable

__all__ = ["parse_json", "read_json", "read_json_if_present", "read_text_if_present"]

MAX_FILE_BYTES = 1 << 28  # the largest published tokenizer.json has about 30 MB


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ModelLoadError if it is missing, too large, or holds something else."""
    return parse_json(path, _read(path), "file")


def read_json_if_present(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no such file."""
    return read_json(path) if path.exists() else {}


def read_text_if_present(path: Path) -> str | None:
    """The text of a file, None if there is no such file."""
    if not path.exists():
        return None
    try:
        return _read(path).decode()
    except UnicodeDecodeError as error:
        raise load_error(path, "file", f"is not UTF-8 at byte {error.start}", "text in UTF-8") from None


def parse_json(path: Path, text: bytes, field: str) -> dict[str, Any]:
    """The object in `text`, without repeated keys; `path` and `field` are for the error."""
    try:
        value = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise load_error(path, field, f"is not readable as JSON ({describe(str(error))})", "a JSON object") from None
    if not isinstance(value, dict):
        raise load_error(path, field, f"holds {describe(value)}", "a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {describe(next(n for n in names if names.count(n) > 1))} is there twice")
    return found


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise load_error(path, "path", "is not a regular file", "a file")
        if status.st_size > MAX_FILE_BYTES:
            raise load_error(path, "file size", f"is {status.st_size}", f"at most {MAX_FILE_BYTES} bytes")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise ModelLoadError(f"{printable(path)}: cannot read the file: {reason}") from error
