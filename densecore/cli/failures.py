"""What goes wrong, told in one line: errors, warnings, log records, Ctrl-C, and output that nobody reads."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TextIO

from densecore.exceptions import DenseCoreError

__all__ = ["guarded", "one_line", "printable", "say"]

ERROR, INTERRUPTED, BROKEN_PIPE = 1, 130, 141  # as a shell reports SIGINT and SIGPIPE


def guarded(work: Callable[[], int]) -> int:
    """Run `work`; whatever it raises becomes a line on stderr and an exit status."""
    try:
        with _one_line_warnings():
            status = work()
            if sys.stdout is not None:
                sys.stdout.flush()  # so that a full disk is noticed while it can still be told
            return status
    except SystemExit as exit:  # argparse: --help, or wrong usage that it has explained
        return exit.code if isinstance(exit.code, int) else ERROR
    except KeyboardInterrupt:
        _debug_traceback()
        say("densecore: interrupted", fresh_line=True)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return BROKEN_PIPE
    except Exception as error:
        _debug_traceback()
        say(f"densecore: error: {_explain(error)}")
        _forget_output_if_unwritable()
        return ERROR


def say(text: str, *, fresh_line: bool = False) -> None:
    """Write a line to stderr; on a terminal with `fresh_line`, leave the line that the cursor is on first."""
    stream = sys.stderr
    if stream is None:
        return
    with contextlib.suppress(OSError, ValueError):  # stderr closed: there is nowhere left to complain
        start = "\n" if fresh_line and stream.isatty() else ""
        stream.write(f"{start}{text}\n")
        stream.flush()


def printable(text: str) -> str:
    """`text` with spaces for line breaks and other characters that could play tricks on a terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def one_line(text: object) -> str:
    """The words of `text` on one line."""
    return printable(" ".join(str(text).split()))


def _explain(error: Exception) -> str:
    if isinstance(error, DenseCoreError):
        return one_line(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror}")
    if isinstance(error, ImportError) and error.name == "DENSECORE_ISA":  # a setting that kernels refuse
        return one_line(error)
    if isinstance(error, MemoryError):
        return f"not enough memory{': ' if str(error) else ''}{one_line(error)}"
    name = type(error).__name__
    return f"unexpected {name}: {one_line(error)} (this is a fault of DenseCore; DENSECORE_DEBUG=1 shows where)"


def debugging() -> bool:
    """Whether the user asked for tracebacks."""
    return os.environ.get("DENSECORE_DEBUG", "") not in ("", "0")


def _debug_traceback() -> None:
    if debugging():
        sys.excepthook(*sys.exc_info())


def _forget_output() -> None:
    """Point stdout to nowhere, so that the interpreter's last flush does not complain about the pipe again."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _forget_output_if_unwritable() -> None:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        _forget_output()


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Python warnings, and log records of this package, as one line each on stderr."""
    handler, logger = _OneLineHandler(), logging.getLogger("densecore")
    propagate = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        finally:
            logger.removeHandler(handler)
            logger.propagate = propagate


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(f"densecore: warning: {one_line(message)}")


class _OneLineHandler(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        say(f"densecore: {record.levelname.lower()}: {one_line(record.getMessage())}")
        if record.exc_info and debugging():
            sys.excepthook(*record.exc_info)
