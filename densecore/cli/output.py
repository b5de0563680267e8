"""Generated text on stdout, as it comes."""

from __future__ import annotations

from typing import TextIO

__all__ = ["TextOutput"]


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
