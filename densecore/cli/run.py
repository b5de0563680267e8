"""``densecore run``: continue a text."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from densecore.cli.failures import say
from densecore.cli.options import (
    BUILTIN_SAMPLING,
    add_engine_arguments,
    add_lora_argument,
    add_model_argument,
    add_sampling_arguments,
    add_speculation_arguments,
    generation_config,
    is_builtin,
)
from densecore.cli.output import TextOutput
from densecore.cli.parser import add_verb, wrong_usage
from densecore.cli.session import open_session
from densecore.cli.standard_input import read_stdin

if TYPE_CHECKING:
    from densecore.llm import GenerationResult

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore run "import os"
  densecore run -m model.gguf -n 64 --temperature 0 "The capital of France is"
  densecore run -m model.gguf --no-echo --quiet < prompt.txt > answer.txt
  densecore run "def f(x):" --stop $'\\n\\n' --seed 1
  densecore run -m model.gguf --json-schema person.json "Somebody famous, as JSON: "

The prompt is continued as it is, without a chat template (see densecore chat). From a pipe, one line break at its
end is dropped. stdout gets the text, with a line break at the end; stderr gets the figures.
"""


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    defaults = ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in BUILTIN_SAMPLING.items())
    parser = add_verb(verbs, __name__, "Continue a text", EXAMPLES)
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text (default, or -: read from a pipe)")
    add_model_argument(parser)
    add_lora_argument(parser)
    parser.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        help="print the prompt first (default: if stdout is a terminal)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no figures and no progress on stderr")
    add_sampling_arguments(parser)
    parser.add_argument_group("built-in model", f"Its defaults differ: {defaults}.")
    add_engine_arguments(parser)
    add_speculation_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Generate and print; the exit status."""
    config = generation_config(args, **(BUILTIN_SAMPLING if is_builtin(args) else {}))
    prompt = _prompt(args)
    with open_session(args, quiet=args.quiet) as session:
        output = TextOutput(sys.stdout)
        echoes = output.is_terminal if args.echo is None else args.echo
        stream = session.model.stream(prompt, config=config)
        texts = session.texts(stream)
        output.write((prompt if echoes else "") + next(texts, ""))  # together: a notice may be on the screen till then
        for text in texts:
            output.write(text)
        output.end_line()
        if not args.quiet and stream.result is not None:
            say(figures(stream.result))
    return 0


def _prompt(args: argparse.Namespace) -> str:
    if args.prompt not in (None, "-"):
        return args.prompt
    has_terminal = sys.stdin is None or sys.stdin.isatty()
    text = "" if has_terminal and args.prompt is None else read_stdin()
    if not text and args.prompt is None:
        wrong_usage(args, "no prompt: give one in quotes, or send it through a pipe")
    return text.removesuffix("\n")


def figures(result: GenerationResult) -> str:
    """How many tokens, how fast, and why it ended, in one line."""
    usage, timings = result.usage, result.timings
    return (
        f"[prompt {usage.prompt_tokens} tokens, {timings.prompt_tokens_per_second:.1f} tokens/s | "
        f"generated {usage.completion_tokens} tokens, {timings.tokens_per_second:.1f} tokens/s | "
        f"first token after {timings.time_to_first_token:.2f} s | ended by {result.finish_reason}]"
    )
