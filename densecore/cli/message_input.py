"""Messages that a user types or pipes in, of one line or of several."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from densecore.cli.standard_input import decode_utf8

__all__ = ["open_lines", "read_message"]

BLOCK = '"""'
HISTORY_LENGTH = 1000

ReadLine = Callable[[str], str]  # prompt -> line without its end; EOFError when there are no more


def read_message(read_line: ReadLine) -> str:
    """The next message: a line; lines that a backslash at their ends joins; or what stands between triple quotes.

    Raises EOFError when there are no more.
    """
    line = read_line("> ")
    if line.lstrip().startswith(BLOCK):
        return _read_block(read_line, line.lstrip()[len(BLOCK) :])
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(_line_or(read_line, ""))
    return "\n".join(lines)


def _read_block(read_line: ReadLine, line: str) -> str:
    """Lines up to the one that ends with the closing quotes."""
    lines = []
    while not line.rstrip().endswith(BLOCK):
        lines.append(line)
        line = _line_or(read_line, BLOCK)
    lines.append(line.rstrip()[: -len(BLOCK)])
    return "\n".join(lines).strip("\n")


def _line_or(read_line: ReadLine, at_end: str) -> str:
    try:
        return read_line(". ")
    except EOFError:
        return at_end


@contextlib.contextmanager
def open_lines(*, interactive: bool, keep_history: bool = True) -> Iterator[ReadLine]:
    """The best way to read lines here: prompt_toolkit, readline, or plain input; without a terminal, the pipe."""
    if not interactive:
        yield _read_piped_line
        return
    directory = _state_directory() if keep_history else None
    try:
        import prompt_toolkit  # noqa: F401  # in the extra [cli]
    except ImportError:
        with _readline_history(directory):
            yield input
    else:
        yield _prompt_toolkit_reader(directory)


def _read_piped_line(prompt: str) -> str:
    data = sys.stdin.buffer.readline() if sys.stdin is not None else b""
    if not data:
        raise EOFError
    return decode_utf8(data, "standard input").removesuffix("\n").removesuffix("\r")


def _prompt_toolkit_reader(directory: Path | None) -> ReadLine:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    file = _private_file(directory, "chat_history.prompt_toolkit")  # its format is not readline's
    return PromptSession(history=InMemoryHistory() if file is None else FileHistory(str(file))).prompt


@contextlib.contextmanager
def _readline_history(directory: Path | None) -> Iterator[None]:
    """Line editing for `input`, with the lines of earlier chats."""
    file = _private_file(directory, "chat_history")
    try:
        import readline
    except ImportError:  # a Python without it: lines can still be typed
        yield
        return
    readline.clear_history()
    readline.set_history_length(HISTORY_LENGTH)
    if file is not None:
        with contextlib.suppress(OSError):
            readline.read_history_file(file)
    try:
        yield
    finally:
        if file is not None:
            with contextlib.suppress(OSError):
                readline.write_history_file(file)


def _state_directory() -> Path | None:
    """``$XDG_STATE_HOME/densecore`` or ``~/.local/state/densecore``; None where that cannot be."""
    try:
        base = Path(os.environ.get("XDG_STATE_HOME", ""))
        # The XDG Base Directory Specification: a relative path there is to be ignored.
        directory = (base if base.is_absolute() else Path.home() / ".local" / "state") / "densecore"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return None
    return directory


def _private_file(directory: Path | None, name: str) -> Path | None:
    """A file that only this user can read, created if need be; None where that cannot be."""
    if directory is None:
        return None
    file = directory / name
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with contextlib.closing(os.fdopen(descriptor, "rb")):
            os.fchmod(descriptor, 0o600)
    except OSError:
        return None
    return file
