"""``densecore compare``: models beside each other on a text."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from typing import Any

from densecore.cli.downloads import local_path
from densecore.cli.options import positive_integer
from densecore.cli.parser import add_verb
from densecore.cli.session import CompileNotice
from densecore.cli.standard_input import read_text
from densecore.cli.tensor_progress import TensorProgress

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore compare model-f16.gguf model-q4_k_m.gguf wiki.test.raw
  densecore compare model-f16.gguf model-q8_0.gguf model-q4_k_m.gguf text.txt --plot sizes.png

The first model is the base: for the others the table tells how far their probabilities are from its own (KL
divergence, in nats) and how often they find the same token most probable. Perplexity is that of densecore perplexity.
"""
DEFAULT_CHUNK = 512  # tokens; less where a model's context is shorter


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Compare models: perplexity, divergence, size and speed", EXAMPLES)
    parser.add_argument("base", metavar="A", help="the base: GGUF file, or owner/name on the Hub")
    parser.add_argument("others", nargs="+", metavar="B", help="one or several other models")
    parser.add_argument("text", metavar="TEXT", help="the text, in UTF-8")
    parser.add_argument(
        "-c",
        "--ctx-size",
        "--max-model-len",
        dest="chunk",
        type=positive_integer,
        metavar="N",
        help=f"tokens in a chunk (default: the models' context, up to {DEFAULT_CHUNK})",
    )
    parser.add_argument("-t", "--threads", type=int, default=0, metavar="N", help="(default: one a physical core)")
    parser.add_argument("--plot", metavar="PNG", help="write a picture: perplexity and divergence over size")
    parser.add_argument("--no-speed", action="store_true", help="do not measure speed")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")


def run(args: argparse.Namespace) -> int:
    """Measure and print; the exit status."""
    text = read_text(args.text)
    paths = [local_path(name, quiet=args.quiet) for name in (args.base, *args.others)]
    from densecore.benchmark.plot import require_matplotlib
    from densecore.compare import compare_models, comparison_table, measure_speed, plot_comparison
    from densecore.kernels.cache import compile_progress
    from densecore.llm import DenseCore

    if args.plot:
        require_matplotlib()
    notice, show = CompileNotice(sys.stderr, quiet=args.quiet), TensorProgress(quiet=args.quiet)

    def progress(done: int, total: int) -> None:
        notice.hide()
        show(f"chunk {done} of {total}")

    try:
        with compile_progress(notice):
            with contextlib.ExitStack() as open_models:
                models = [open_models.enter_context(DenseCore(path, threads=args.threads)) for path in paths]
                chunk = args.chunk or min(DEFAULT_CHUNK, *(model.max_model_len for model in models))
                figures = compare_models(models, paths, text, chunk, progress=progress)
            if not args.no_speed:
                speeds = [measure_speed(path, args.threads) for path in paths]
                figures = [
                    dataclasses.replace(c, prompt_speed=prompt, generation_speed=generation)
                    for c, (prompt, generation) in zip(figures, speeds, strict=True)
                ]
    finally:
        notice.hide()
        show.end()
    print(json.dumps([c.as_dict() for c in figures], indent=2) if args.json else comparison_table(figures))
    if args.plot:
        plot_comparison(args.plot, figures)
    return 0
