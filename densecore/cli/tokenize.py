"""``densecore tokenize``: text to token ids and back."""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from densecore.cli.options import add_model_argument, model_path
from densecore.cli.output import TextOutput
from densecore.cli.parser import add_verb, wrong_usage
from densecore.cli.standard_input import read_stdin

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore tokenize "def f(x):"
  densecore tokenize -m model.gguf --add-special --ids "Hello, world!"
  densecore tokenize --decode "325 66 7"
  densecore tokenize --ids - < text.txt | densecore tokenize --decode -

Without --ids or --json: a line a token, id and piece as Python writes a string.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Turn text into token ids, or ids into text", EXAMPLES)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text (default, or -: read from a pipe)")
    add_model_argument(parser)
    parser.add_argument(
        "--decode", metavar="IDS", help="print the text of these ids instead (-: read them from a pipe)"
    )
    parser.add_argument("--add-special", action="store_true", help="add what the model expects, such as BOS")
    parser.add_argument(
        "--no-parse-special",
        dest="parse_special",
        action="store_false",
        help="take names of control tokens, such as <|im_end|>, as plain text",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--ids", action="store_true", help="print ids alone, in one line")
    form.add_argument("--json", action="store_true", help="print ids, pieces and text as JSON")


def run(args: argparse.Namespace) -> int:
    """Print tokens or text; the exit status."""
    if args.decode is not None and args.text is not None:
        wrong_usage(args, "give either TEXT or --decode IDS")
    if args.decode is None and args.text is None and (sys.stdin is None or sys.stdin.isatty()):
        wrong_usage(args, "no text: give one in quotes, or send it through a pipe")
    source = args.text if args.decode is None else args.decode
    source = read_stdin() if source in (None, "-") else source
    ids = [] if args.decode is None else _parse_ids(args, source)

    from densecore.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_gguf(model_path(args))
    if args.decode is None:
        ids = tokenizer.encode(source, add_special=args.add_special, parse_special=args.parse_special)
    _show(args, tokenizer, ids)
    return 0


def _parse_ids(args: argparse.Namespace, text: str) -> list[int]:
    """Numbers separated by spaces, commas or line breaks, with or without brackets."""
    words = re.split(r"[\s,]+", text.strip(" \t\r\n[],"))
    try:
        return [int(word) for word in words if word]
    except ValueError:
        wrong_usage(args, f"--decode takes numbers such as '1 2 3', not {text[:80]!r}")


def _show(args: argparse.Namespace, tokenizer: Any, ids: list[int]) -> None:
    output = TextOutput(sys.stdout)
    if args.json:
        pieces = [tokenizer.token_text(token_id) for token_id in ids]
        output.write(json.dumps({"ids": ids, "pieces": pieces, "text": tokenizer.decode(ids)}, ensure_ascii=False))
    elif args.ids:
        output.write(" ".join(map(str, ids)))
    elif args.decode is not None:
        output.write(tokenizer.decode(ids))
    else:
        output.write("\n".join(f"{token_id:>7}  {tokenizer.token_text(token_id)!r}" for token_id in ids))
    output.end_line()
