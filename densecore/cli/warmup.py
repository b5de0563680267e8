"""``densecore warmup``: compile ahead of the first use."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from densecore.cli.options import add_engine_arguments, add_model_argument, positive_integer
from densecore.cli.parser import add_verb
from densecore.cli.session import Session, open_session

if TYPE_CHECKING:
    from densecore.llm import DenseCore

__all__ = ["add_parser", "run"]

EXAMPLES = """\
  densecore warmup
  densecore warmup -m model.gguf
  DENSECORE_CACHE_DIR=/opt/densecore densecore warmup -m model.gguf    (when an image is built, for instance)

Compiles in several processes at once, then runs prompts and answers of every kind with the model, so that all
kernels that it needs lie in the cache.
They serve this version of DenseCore on this type of CPU, for every model with the same tensor types.
"""
PROMPT_LENGTHS = (300, 40, 8, 3, 2, 1)  # tokens: kernels differ for one, few and many columns
SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {},
    {"top_k": 0, "min_p": 0.05},
    {"top_k": 0, "top_p": 1.0, "presence_penalty": 0.5, "frequency_penalty": 0.5, "logit_bias": {0: -1.0}},
)
NUM_TOGETHER = 4  # requests decoding at once


def add_parser(verbs: Any) -> None:
    """Declare the arguments."""
    parser = add_verb(verbs, __name__, "Compile what a model needs, ahead of its first use", EXAMPLES)
    add_model_argument(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on stderr")
    parser.add_argument(
        "--processes",
        type=positive_integer,
        default=0,
        metavar="N",
        help="that share the work (default: one a core, where there is enough to do)",
    )
    add_engine_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Compile, and print how much that was; the exit status."""
    started = time.perf_counter()
    from densecore.kernels.cache import cache_directory, num_compiled, num_compiled_elsewhere

    def num_done() -> int:
        return num_compiled() + num_compiled_elsewhere()

    before = num_done()
    with open_session(args, quiet=args.quiet, max_num_seqs=NUM_TOGETHER) as session:
        _exercise(session)
    seconds, count = time.perf_counter() - started, num_done() - before
    if not count:
        print(f"nothing to compile: all kernels were in {cache_directory()} ({seconds:.1f} s)")
    elif cache_directory() is None:
        print(f"compiled {count} kernels in {seconds:.1f} s; they are not kept, as there is no cache directory")
    else:
        print(f"compiled {count} kernels in {seconds:.1f} s, kept in {cache_directory()}")
    return 0


def _exercise(session: Session) -> None:
    """Prefill, decode, sampling, several requests at once, and logits of every position."""
    model = session.model
    if model.is_encoder:
        for length in PROMPT_LENGTHS:
            model.embed(_prompt(model, length), "mean")
        return
    for length in PROMPT_LENGTHS:
        prompt = _prompt(model, length)
        model.complete(prompt, max_tokens=2, temperature=0.0)
    for sampling in SAMPLINGS:
        model.complete(_prompt(model, 2), max_tokens=2, seed=0, **sampling)
    streams = [model.stream(_prompt(model, 2), max_tokens=4, seed=0) for _ in range(NUM_TOGETHER)]
    for stream in streams:
        for _ in stream:
            pass
    model.forward(_prompt(model, 8))


def _prompt(model: DenseCore, length: int) -> list[int]:
    """Some tokens, which leave room for a short answer."""
    n_vocab = model.tokenizer.n_vocab
    return [i % n_vocab for i in range(max(min(length, model.max_model_len - 4), 1))]
