"""What tools that rewrite a model show while they do: a line a tensor, rewritten on a terminal."""

from __future__ import annotations

import sys

from densecore.cli.failures import printable, say

__all__ = ["TensorProgress"]

ERASE_LINE = "\r\x1b[K"


class TensorProgress:
    """Called with each line; `end` leaves a clean terminal. Quiet, or without stderr, nothing is shown."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet or sys.stderr is None
        self._terminal = not self._quiet and sys.stderr.isatty()

    def __call__(self, line: str) -> None:
        if self._terminal:
            sys.stderr.write(f"{ERASE_LINE}{printable(line)}")
            sys.stderr.flush()
        elif not self._quiet:
            say(printable(line))

    def end(self) -> None:
        if self._terminal:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
