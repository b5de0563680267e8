"""What experts save: a model with experts and a dense one of the same total size decode in turn.

::

    python -m bench.experts [--shape mixtral-8x7b] [--layers 4] [--type Q4_K_M]

Both are written by `bench.models`, with random weights, so that tokens choose their experts at random. The dense one is
as wide as all experts together. A round measures both, in alternating order; the ratio is taken within a round. The
bound is how many times as many bytes the dense one reads for a token: the ratio if nothing but reading took time.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from bench.models import default_folder, make_model, resized
from bench.shapes import MIXES, SHAPES, Shape, tensor_shapes, tensor_type
from densecore.benchmark import StepTimer, TimedSequences, markdown_table
from densecore.config import EngineConfig

__all__ = ["bytes_for_a_token", "dense_twin"]

PROMPT = 256  # tokens


def dense_twin(shape: Shape) -> Shape:
    """The same with one feed-forward part of the size of all experts."""
    return dataclasses.replace(
        shape, name=f"{shape.name}-dense", hidden_dim=shape.hidden_dim * shape.n_experts, n_experts=0, n_experts_used=0
    )


def bytes_for_a_token(shape: Shape, mix: str) -> int:
    """Bytes of weights that a decoded token needs: all, but for the embedding, and of the experts those in use."""
    total = 0
    for name, size in tensor_shapes(shape):
        if name != "token_embd.weight" or shape.tied:
            num_bytes = tensor_type(shape, mix, name, size).n_bytes(math.prod(size))
            total += num_bytes * shape.n_experts_used // shape.n_experts if len(size) == 3 else num_bytes
    return total


def _alternate(pair: Sequence[TimedSequences], num_tokens: int, rounds: int) -> list[list[float]]:
    """Tokens a second of each, round by round, after one round that does not count."""
    rates: list[list[float]] = [[], []]
    for number in range(rounds + 1):
        for which in (0, 1)[:: 1 - 2 * (number % 2)]:
            nanoseconds = pair[which].decode(num_tokens)
            if number:
                rates[which].append(pair[which].num_sequences * num_tokens / nanoseconds * 1e9)
    return rates


def _row(timers: Sequence[StepTimer], num_sequences: int, num_tokens: int, rounds: int) -> list[str]:
    pair = [timer.sequences(num_sequences, room=max(num_tokens, PROMPT)) for timer in timers]
    for sequences in pair:
        sequences.prefill(PROMPT)  # reaches all experts: else the first tokens would wait for the file's pages
    rates = _alternate(pair, num_tokens, rounds)
    ratios = [ours / theirs for ours, theirs in zip(*rates, strict=True)]
    figures = [f"{statistics.median(values):.1f}" for values in rates]
    return [
        f"tgx{num_sequences}",
        *figures,
        *(f"{x:.2f}" for x in (min(ratios), statistics.median(ratios), max(ratios))),
    ]


def main() -> None:
    """Print a table."""
    shapes = [name for name, shape in SHAPES.items() if shape.n_experts]
    parser = argparse.ArgumentParser(
        prog="python -m bench.experts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", default=shapes[0], choices=shapes, help="(default %(default)s)")
    parser.add_argument("--layers", type=int, default=4, metavar="N", help="(default %(default)s)")
    parser.add_argument("--type", default="Q4_K_M", choices=MIXES, help="file type (default %(default)s)")
    parser.add_argument("--sequences", default="1,4", metavar="N,...", help="decoding at once (default %(default)s)")
    parser.add_argument("--tokens", type=int, default=16, metavar="N", help="of each, a round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="(default: physical cores)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"of the models (default {default_folder()})")
    args = parser.parse_args()
    pair = resized(SHAPES[args.shape], args.layers), dense_twin(resized(SHAPES[args.shape], args.layers))
    config = EngineConfig(threads=args.threads)
    timers = [StepTimer(make_model(shape, args.type, args.out), config) for shape in pair]
    sizes = [bytes_for_a_token(shape, args.type) for shape in pair]
    rows = [_row(timers, count, args.tokens, args.rounds) for count in map(int, args.sequences.split(","))]
    head = ["", "experts, t/s", "dense, t/s", "ratio, min", "median", "max"]
    print(f"\n### {pair[0].name}-{args.type}, {timers[0].num_threads} threads\n\n{markdown_table(head, rows)}")
    read = " and ".join(f"{size / 2**20:.0f} MiB" for size in sizes)
    print(f"\nA token reads {read}: bound {sizes[1] / sizes[0]:.2f}.")


if __name__ == "__main__":
    main()
