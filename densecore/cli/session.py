"""A loaded model for the length of a command, and the notice that kernels are being compiled."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

from densecore.cli.downloads import local_path
from densecore.cli.options import engine_config, model_path

if TYPE_CHECKING:
    from densecore.llm import DenseCore, TextStream

__all__ = ["CompileNotice", "Session", "open_session"]

ERASE_LINE = "\r\x1b[K"


class CompileNotice:
    """Tells the user why there is a wait, as long as there is one: called at the start of each real compilation.

    On a terminal one line that counts, and that `hide` erases; elsewhere one line once. `remaining` tells how many
    there will be yet, None where that is not known.
    """

    def __init__(
        self, stream: TextIO | None, *, quiet: bool = False, remaining: Callable[[], int | None] = lambda: None
    ) -> None:
        self._stream, self._quiet, self._remaining = stream, quiet or stream is None, remaining
        self._terminal = stream is not None and stream.isatty()
        self._lock = threading.Lock()  # calls come from the kernel thread
        self._shown = self._hidden = False

    def __call__(self, name: str, count: int) -> None:
        with self._lock:
            if self._quiet or self._hidden or (self._shown and not self._terminal):
                return
            self._shown = True
            if self._terminal:
                remaining = self._remaining()
                total = "" if remaining is None else f" of {count + remaining}"
                self._write(f"{ERASE_LINE}compiling kernels: {count}{total} (first run on this CPU)…")
            else:
                self._write("compiling kernels (first run on this CPU)…\n")

    def hide(self) -> None:
        """Erase the line, and write none until `allow`: from now on the terminal belongs to the text."""
        with self._lock:
            if self._shown and self._terminal:
                self._write(ERASE_LINE)
                self._shown = False
            self._hidden = True

    def allow(self) -> None:
        """Write again when something is compiled."""
        with self._lock:
            self._hidden = False

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # what this raised, the kernel would raise
            assert self._stream is not None
            self._stream.write(text)
            self._stream.flush()


@dataclasses.dataclass(frozen=True)
class Session:
    """A model, and the notice that must be gone before its text is shown."""

    model: DenseCore
    notice: CompileNotice

    def texts(self, stream: TextStream) -> Iterator[str]:
        """The pieces of a stream. Ends the request when it is left early, as by Ctrl-C."""
        self.notice.allow()
        try:
            with stream:
                for text in stream:
                    self.notice.hide()
                    yield text
        finally:
            self.notice.hide()


@contextlib.contextmanager
def open_session(args: argparse.Namespace, *, quiet: bool = False, max_num_seqs: int = 1) -> Iterator[Session]:
    """Load the model that the arguments name, compile what it still needs, and close it in the end.

    After Ctrl-C it is left open, as closing waits for the step that is being computed, and the process ends anyway.
    """
    config = dataclasses.asdict(engine_config(args, max_num_seqs))
    from densecore.kernels.cache import compile_progress, num_remaining
    from densecore.llm import DenseCore

    notice = CompileNotice(sys.stderr, quiet=quiet, remaining=num_remaining)
    with compile_progress(notice):
        draft, lora = getattr(args, "draft_model", None), getattr(args, "lora_path", None)
        draft_path = None if draft is None else local_path(draft, quiet=quiet)
        model = DenseCore(model_path(args), draft_model_path=draft_path, lora_path=lora, **config)
        try:
            model.compile_kernels(args.processes if "processes" in args else 0)
            yield Session(model, notice)
        except KeyboardInterrupt:
            notice.hide()
            raise
        except BaseException:
            notice.hide()
            model.close()
            raise
        notice.hide()
        model.close()
