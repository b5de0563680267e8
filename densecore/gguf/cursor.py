"""Reading position in a file whose every length is checked before it is used."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from densecore.exceptions import ModelLoadError
from densecore.gguf.errors import describe, load_error

__all__ = ["HEAD_LIMIT", "Cursor"]

# Header, metadata and tensor table together; 128,000 tokens with 280,000 merges take 8 MB. The bound keeps a
# sparse file of terabytes, which costs its author nothing, from keeping a reader busy for hours.
HEAD_LIMIT = 1 << 26

_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")


class Cursor:
    """Reads little-endian values one after another; whatever does not fit is a ModelLoadError."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.size = len(data)
        self.pos = 0
        self.end = min(self.size, HEAD_LIMIT)

    @property
    def remaining(self) -> int:
        """Bytes that are left for header, metadata and tensor table."""
        return self.end - self.pos

    def error(self, field: str, problem: str, allowed: str, offset: int | None = None) -> ModelLoadError:
        """A complaint about the field at `offset`, or at the current position."""
        return load_error(self.path, field, problem, allowed, self.pos if offset is None else offset)

    def take(self, n_bytes: int, field: str) -> int:
        """Moves past `n_bytes` and returns where they start."""
        if n_bytes > self.remaining:
            raise self.error(field, f"takes {n_bytes} bytes", f"at most {self._left()}")
        start = self.pos
        self.pos += n_bytes
        return start

    def u32(self, field: str) -> int:
        return _U32.unpack_from(self.data, self.take(4, field))[0]

    def u64(self, field: str) -> int:
        return _U64.unpack_from(self.data, self.take(8, field))[0]

    def count(self, field: str, min_bytes: int) -> int:
        """A u64 that counts things of at least `min_bytes` each, all of which must fit into what is left."""
        value = self.u64(field)
        if value * min_bytes > self.remaining:
            most = self.remaining // min_bytes
            raise self.error(field, f"is {value}", f"at most {most}, for {self._left()}", self.pos - 8)
        return value

    def string(self, field: str, longest: int | None = None) -> str:
        """A u64 length and as many bytes of UTF-8; `longest` bounds the length in bytes, then 0 is refused."""
        length = self.u64(f"{field} length")
        if longest is not None and not 1 <= length <= longest:
            raise self.error(f"{field} length", f"is {length}", f"1 to {longest} bytes", self.pos - 8)
        if length > self.remaining:
            raise self.error(f"{field} length", f"is {length}", f"at most {self._left()}", self.pos - 8)
        start = self.take(length, field)
        return self._text(start, self.pos, field)

    def strings(self, count: int, field: str) -> list[str]:
        """`count` strings in a row: the loop that a vocabulary of 150,000 tokens passes through."""
        data, end, pos, start, unpack = self.data, self.end, self.pos, self.pos, _U64.unpack_from
        result: list[str] = []
        try:
            while len(result) < count:
                start = pos
                pos = start + 8 + unpack(data, start)[0]
                if pos > end:
                    break
                result.append(data[start + 8 : pos].decode())
        except (struct.error, UnicodeDecodeError):
            pass
        if len(result) < count:  # the slow way through the element that stopped us finds the words for it
            self.pos = start
            self.string(f"{field} element {len(result)}")
        self.pos = pos
        return result

    def _text(self, start: int, stop: int, field: str) -> str:
        raw = self.data[start:stop]
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = start + error.start
            raise self.error(field, f"is {describe(raw, 40)}: {error.reason}", "valid UTF-8", bad) from None

    def _left(self) -> str:
        if self.end < self.size:
            return f"the {self.remaining} bytes left of the {HEAD_LIMIT} that metadata may take"
        return f"the {self.remaining} bytes left in the file"
