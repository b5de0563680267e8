"""Generated text on stdout, as it comes, and how sizes are written."""

from __future__ import annotations

from typing import TextIO

__all__ = ["TextOutput", "readable_size"]


class TextOutput:
    """Writes pieces of text at once, and knows whether the line has ended. None as stream swallows everything."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.in_line = False  # whether text stands on the current line
        self.is_terminal = stream is not None and stream.isatty()

    def write(self, text: str) -> None:
        """Show `text` now. Characters that the stream's encoding lacks become ``?``."""
        if self._stream is None or not text:
            return
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._stream.write(text.encode(encoding, "replace").decode(encoding))
        self._stream.flush()
        self.in_line = not text.endswith("\n")

    def end_line(self) -> None:
        """Begin a new line, unless the text has done so."""
        if self.in_line:
            self.write("\n")


def readable_size(n_bytes: int) -> str:
    """Bytes in the largest unit that gives a number from 1."""
    if n_bytes < 1024:
        return f"{n_bytes} bytes"
    value, units = float(n_bytes), iter(("KiB", "MiB", "GiB"))
    unit = ""
    while value >= 1024 and (next_unit := next(units, None)):
        value, unit = value / 1024, next_unit
    return f"{value:.1f} {unit}"
