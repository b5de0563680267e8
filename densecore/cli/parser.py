"""The parser of all verbs. To add a verb, write its module and name it in `VERBS`."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import densecore
from densecore.cli.failures import one_line, say

__all__ = ["VERBS", "Parser", "add_verb", "build_parser", "parse", "wrong_usage"]

VERBS = (
    "run",
    "chat",
    "serve",
    "info",
    "tokenize",
    "perplexity",
    "quantize",
    "imatrix",
    "prune",
    "compare",
    "bench",
    "warmup",
    "convert",
    "pull",
    "list",
    "rm",
    "env",
    "capi",
    "version",
)

EPILOG = """\
examples:
  densecore run "import os"                     continue a text with the built-in model
  densecore chat --model qwen2.5-0.5b-q8_0.gguf talk to a model
  densecore chat -m owner/name:Q4_K_M           the same, downloaded from the Hugging Face Hub
  densecore serve --model model.gguf            serve it to clients of OpenAI's API
  densecore info model.gguf                     what is in a file, and how much memory it takes
  densecore VERB --help                         arguments and examples of a verb

environment:
  DENSECORE_CACHE_DIR  where compiled kernels are kept (default ~/.cache/densecore)
  DENSECORE_DEBUG=1    show tracebacks of errors
"""


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)
        self._action_max_length = 4 + max(map(len, VERBS))  # argparse forgets that verbs are indented


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and that knows what was probably meant."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _HelpFormatter)
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and end with status 2."""
        say(f"densecore: error: {one_line(message)}{_did_you_mean(message)} (see {self.prog} --help)")
        sys.exit(2)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End because of arguments that this parser does not know."""
        flag = unknown[0].split("=")[0]
        near = difflib.get_close_matches(flag, self._option_string_actions, 1)
        hint = f", did you mean {near[0]}?" if near else ""
        if not flag.startswith("-"):
            hint = " (a text with spaces needs quotes)"
        self.error(f"unknown argument {unknown[0]}{hint}")


def _did_you_mean(message: str) -> str:
    """For a mistyped verb or choice: the nearest one, read from argparse's own message."""
    found = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    if not found:
        return ""
    choices = [choice.strip(" '") for choice in found[2].split(",")]
    near = difflib.get_close_matches(found[1], choices, 1)
    return f", did you mean {near[0]}?" if near else ""


def add_verb(verbs: Any, module: str, help: str, examples: str) -> Parser:
    """The parser of a verb, named as its module; `help` is a sentence without its full stop."""
    parser = verbs.add_parser(
        module.rsplit(".", 1)[-1],
        help=help[0].lower() + help[1:],
        description=help + ".",
        epilog="examples:\n" + examples,
    )
    parser.set_defaults(run=sys.modules[module].run, parser=parser)
    return parser


def build_parser() -> Parser:
    """The parser with all verbs."""
    parser = Parser(prog="densecore", description="Large language models on CPUs, from GGUF files.", epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"densecore {densecore.__version__}")
    verbs = parser.add_subparsers(metavar="VERB", dest="verb", parser_class=Parser)
    for verb in VERBS:
        importlib.import_module(f"densecore.cli.{verb}").add_parser(verbs)
    return parser


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; `args.run` is the verb's function, `args.parser` its parser. SystemExit on wrong usage."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if args.verb is None:
        if unknown:
            parser.refuse(unknown)
        parser.print_help()
        sys.exit(2)
    if unknown:
        args.parser.refuse(unknown)
    return args


def wrong_usage(args: argparse.Namespace, message: str) -> NoReturn:
    """End as the verb's parser does, with status 2, for what only the verb itself can check."""
    parser: Parser = args.parser
    parser.error(message)
