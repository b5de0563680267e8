"""``densecore convert``: from a checkpoint in Hugging Face's layout to a GGUF file."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from densecore.cli.failures import printable, say
from densecore.cli.output import readable_size
from densecore.cli.parser import add_verb

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore convert Qwen2.5-0.5B-Instruct qwen2.5-0.5b.gguf               F16
  densecore convert Qwen2.5-0.5B-Instruct qwen2.5-0.5b.gguf --outtype q8_0
  densecore convert all-MiniLM-L6-v2 minilm.gguf --outtype f32            a sentence encoder

The folder holds config.json, tokenizer.json (or tokenizer.model) and model.safetensors, or several such files with
an index. The file appears when it is complete; one of that name is replaced then. Printed is its path.
"""
ERASE_LINE = "\r\x1b[K"
SECONDS_BETWEEN = 0.1  # updates of the line on a terminal
SHARE_BETWEEN = 0.1  # of the file, between lines elsewhere


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Convert a Hugging Face checkpoint to GGUF", EXAMPLES)
    parser.add_argument("source", metavar="FOLDER", help="the checkpoint")
    parser.add_argument("target", metavar="OUT.gguf", help="the file to write")
    parser.add_argument(
        "--outtype",
        choices=("f32", "f16", "bf16", "q8_0"),
        default="f16",
        help="type of the matrices (default: %(default)s); vectors are F32",
    )
    parser.add_argument("--name", metavar="TEXT", help="name of the model in the file (default: the folder's)")
    parser.add_argument("--pre", metavar="NAME", help="how byte-level BPE cuts text (default: recognized)")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Convert and print the path; the exit status."""
    from densecore.convert import convert_checkpoint

    progress = _Progress(args.target, quiet=args.quiet)
    try:
        path = convert_checkpoint(
            args.source, args.target, args.outtype, name=args.name, pre=args.pre, progress=progress
        )
    finally:
        progress.end()
    print(path)
    return 0


class _Progress:
    """Bytes written, as one line that is rewritten on a terminal, and a line now and then elsewhere."""

    def __init__(self, target: str, *, quiet: bool) -> None:
        self._quiet = quiet or sys.stderr is None
        self._terminal = not self._quiet and sys.stderr.isatty()
        self._target = printable(target)
        self._started = time.monotonic()
        self._shown = 0.0  # when, on a terminal; elsewhere the share that was done then
        self._in_line = False

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are written."""
        if self._quiet:
            return
        now = time.monotonic()
        if self._terminal and (now - self._shown >= SECONDS_BETWEEN or done == total):
            self._shown, self._in_line = now, True
            sys.stderr.write(f"{ERASE_LINE}{self._line(done, total, now)}")
            sys.stderr.flush()
        elif not self._terminal and total and (done / total - self._shown >= SHARE_BETWEEN or done == total):
            self._shown = done / total
            say(self._line(done, total, now))

    def end(self) -> None:
        """Leave the terminal's line to others."""
        if self._in_line:
            sys.stderr.write(ERASE_LINE)
            sys.stderr.flush()
            self._in_line = False

    def _line(self, done: int, total: int, now: float) -> str:
        share = f"{readable_size(done)} of {readable_size(total)} ({100 * done / max(total, 1):.0f} %)"
        rate = int(done / max(now - self._started, 1e-3))
        return f"writing {self._target}: {share}, {readable_size(rate)}/s"
