"""``densecore perplexity``: how well a model predicts a text."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from typing import TYPE_CHECKING, Any

from densecore.cli.failures import say
from densecore.cli.options import add_engine_arguments, add_lora_argument, add_model_argument
from densecore.cli.parser import add_verb
from densecore.cli.session import Session, open_session
from densecore.cli.standard_input import read_stdin, read_text

if TYPE_CHECKING:
    from densecore.perplexity import Perplexity

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore perplexity -m model.gguf wiki.test.raw
  densecore perplexity -m model.gguf --ctx-size 2048 --json wiki.test.raw

The text is cut into chunks of --ctx-size tokens; the second half of each is scored, as llama-perplexity does, with
BOS in front where the model expects it. Compare figures only of the same text and the same --ctx-size.
"""
DEFAULT_CHUNK = 512  # tokens; less where the model's context is shorter


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Measure how well a model predicts a text", EXAMPLES)
    parser.add_argument("file", metavar="FILE", help="the text, in UTF-8 (-: read from a pipe)")
    add_model_argument(parser)
    add_lora_argument(parser)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    add_engine_arguments(parser, context=f"tokens in a chunk (default: the model's context, up to {DEFAULT_CHUNK})")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the exit status."""
    text = read_stdin() if args.file == "-" else read_text(args.file)
    with open_session(args, quiet=args.quiet) as session:
        result = _measure(args, session, text)
    if args.json:
        figures = dataclasses.asdict(result)
        print(json.dumps({"perplexity": figures.pop("value"), **figures}))
    else:
        print(f"perplexity {result.value:.4f} +- {result.standard_error:.4f}")
    return 0


def _measure(args: argparse.Namespace, session: Session, text: str) -> Perplexity:
    from densecore.perplexity import measure_perplexity

    model, tokenizer = session.model, session.model.tokenizer
    progress = _Progress(session, quiet=args.quiet)
    result = measure_perplexity(
        model.forward,
        tokenizer.encode(text, add_special=True, parse_special=False),
        args.max_model_len or min(model.max_model_len, DEFAULT_CHUNK),
        bos_id=tokenizer.bos_id if tokenizer.add_bos else None,
        progress=progress,
    )
    progress.end()
    return result


class _Progress:
    """Chunks done, as one line that is rewritten on a terminal, and a line now and then elsewhere."""

    def __init__(self, session: Session, *, quiet: bool) -> None:
        self._notice, self._quiet = session.notice, quiet or sys.stderr is None
        self._terminal = not self._quiet and sys.stderr.isatty()

    def __call__(self, done: int, total: int, value: float) -> None:
        self._notice.hide()
        if self._quiet or not (self._terminal or done % max(total // 10, 1) == 0):
            return
        line = f"chunk {done} of {total}, perplexity so far {value:.4f}"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{line}")
            sys.stderr.flush()
        else:
            say(line)

    def end(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\x1b[K")
