"""Models from the Hub on the command line: what a name means, and how downloads show their progress."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from densecore.cli.failures import printable, say
from densecore.cli.output import readable_size

__all__ = ["DownloadProgress", "fetch", "local_path"]

ERASE_LINE = "\r\x1b[K"
SECONDS_BETWEEN = 0.1  # updates of the line on a terminal
SHARE_BETWEEN = 0.1  # of a file, between lines elsewhere


def local_path(name: str, *, quiet: bool = False) -> Path:
    """The file that `name` is the path of, or else the model of the Hub that it can only mean, downloaded."""
    path = Path(name).expanduser()
    if not path.exists():
        from densecore.hub.reference import ModelReference

        if ModelReference.looks_like(name):
            return fetch(name, quiet=quiet)
    return path


def fetch(name: str, filename: str | None = None, *, revision: str | None = None, quiet: bool = False) -> Path:
    """The model of the Hub, with progress on stderr."""
    from huggingface_hub.utils import logging

    from densecore.hub import fetch_model

    logging.set_verbosity_error()  # its notes on lost connections are long, and the progress shows them
    progress = DownloadProgress(quiet=quiet)
    try:
        return fetch_model(name, filename, revision=revision, progress=progress)
    finally:
        progress.end()


class DownloadProgress:
    """Bytes done, as one line that is rewritten on a terminal, and a line now and then elsewhere."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet or sys.stderr is None
        self._terminal = not self._quiet and sys.stderr.isatty()
        self._file = ""
        self._started, self._start_bytes = 0.0, 0
        self._shown = 0.0  # when, on a terminal; elsewhere the share of the file that was done then
        self._in_line = False

    def __call__(self, filename: str, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are there."""
        if self._quiet:
            return
        if filename != self._file:
            self._begin(filename, done)
        if self._terminal:
            if (now := time.monotonic()) - self._shown >= SECONDS_BETWEEN or done == total:
                self._shown = now
                self._write(f"{ERASE_LINE}{self._line(done, total)}")
        elif total and done / total - self._shown >= SHARE_BETWEEN and done < total:
            self._shown = done / total
            say(self._line(done, total))

    def end(self) -> None:
        """Leave the terminal's line to others."""
        if self._in_line:
            self._write(ERASE_LINE)
            self._in_line = False

    def _begin(self, filename: str, done: int) -> None:
        self.end()
        self._file, self._started, self._start_bytes, self._shown = filename, time.monotonic(), done, 0.0
        goes_on = f", which goes on from {readable_size(done)}" if done else ""
        say(f"downloading {printable(filename)}{goes_on}")

    def _line(self, done: int, total: int | None) -> str:
        rate = (done - self._start_bytes) / max(time.monotonic() - self._started, 1e-3)
        share = f" of {readable_size(total)} ({100 * done / total:.0f} %)" if total else ""
        left = f", {(total - done) / rate:.0f} s left" if total and rate else ""
        return f"  {readable_size(done)}{share}, {readable_size(int(rate))}/s{left}"

    def _write(self, text: str) -> None:
        self._in_line = True
        sys.stderr.write(text)
        sys.stderr.flush()
