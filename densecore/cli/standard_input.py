"""Text from a pipe or a file."""

from __future__ import annotations

import sys
from pathlib import Path

from densecore.exceptions import InvalidConfigError

__all__ = ["decode_utf8", "read_stdin", "read_text"]


def read_stdin() -> str:
    """All of standard input, as it is. Raises InvalidConfigError if it is not UTF-8."""
    if sys.stdin is None:
        return ""
    data = getattr(sys.stdin, "buffer", None)
    return sys.stdin.read() if data is None else decode_utf8(data.read(), "standard input")


def read_text(path: str) -> str:
    """All of a file. Raises OSError, or InvalidConfigError if it is not UTF-8."""
    return decode_utf8(Path(path).read_bytes(), path)


def decode_utf8(data: bytes, source: str) -> str:
    """`data` as text; the error says where in `source` it is something else."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidConfigError(
            f"{source} is not UTF-8 text: byte 0x{data[error.start]:02x} at position {error.start}"
        ) from None
