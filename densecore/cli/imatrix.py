"""``densecore imatrix``: how much each column of a model's matrices matters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from densecore.cli.options import add_engine_arguments
from densecore.cli.parser import add_verb
from densecore.cli.session import open_session
from densecore.cli.standard_input import read_text
from densecore.cli.tensor_progress import TensorProgress

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore imatrix model-f16.gguf calibration.txt
  densecore quantize model-f16.gguf model-q3_k_m.gguf q3_k_m --imatrix model-f16.imatrix.gguf

The text should be of the kind that the model will meet: some 100,000 tokens of it are plenty. The file has the form
of llama-imatrix, and either program takes the other's.
"""
DEFAULT_CHUNK = 512  # tokens; less where the model's context is shorter


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Measure which weights matter, for quantize", EXAMPLES)
    parser.add_argument("model", metavar="MODEL", help="GGUF file, or owner/name on the Hub")
    parser.add_argument("text", metavar="TEXT", help="the text to measure with, in UTF-8")
    parser.add_argument("-o", "--output", metavar="FILE", help="(default: MODEL.imatrix.gguf, in this folder)")
    parser.add_argument(
        "--no-correlations",
        action="store_true",
        help="measure columns alone, as llama-imatrix does: a file of kilobytes, which helps much less",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    add_engine_arguments(parser, context=f"tokens in a chunk (default: the model's context, up to {DEFAULT_CHUNK})")


def run(args: argparse.Namespace) -> int:
    """Measure, and write the file; the exit status."""
    from densecore.imatrix import measure_importance

    text = read_text(args.text)
    output = args.output or Path(args.model).name.split(":")[0].removesuffix(".gguf") + ".imatrix.gguf"
    show = TensorProgress(quiet=args.quiet)
    with open_session(args, quiet=args.quiet) as session:
        model, tokenizer = session.model, session.model.tokenizer

        def progress(done: int, total: int) -> None:
            session.notice.hide()
            show(f"chunk {done} of {total}")

        try:
            matrix = measure_importance(
                model.forward,
                tokenizer.encode(text, add_special=True, parse_special=False),
                args.max_model_len or min(model.max_model_len, DEFAULT_CHUNK),
                bos_id=tokenizer.bos_id if tokenizer.add_bos else None,
                dataset=args.text,
                correlations=not args.no_correlations,
                progress=progress,
            )
        finally:
            show.end()
    matrix.save(output)
    print(f"{output}: {len(matrix.names)} matrices, {matrix.num_chunks} chunks of {matrix.chunk_size} tokens")
    return 0
