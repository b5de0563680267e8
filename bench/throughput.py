"""DenseCore and llama.cpp in turn, serving many requests of mixed lengths: output tokens a second, and their ratio.

::

    python -m bench.throughput qwen2.5-0.5b:Q4_K_M llama-3.2-1b:Q4_K_M --peer-python PATH

The requests come all at once, with prompts of random tokens, and are answered greedily to their whole length. DenseCore
serves them with its engine, texts and events included; llama.cpp by its batch API with continuous batching (`peer.py`),
as many sequences as requests, 512 tokens a call, flash attention. Both use the same threads, and float16 keys and
values. Each lives in a process of its own and sleeps while the other computes; the ratio is taken within a round.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

from bench.children import Child
from bench.compare import OWN, PAUSE, PEER, model_path
from bench.models import default_folder
from densecore.benchmark import markdown_table

__all__ = ["Lengths", "measure", "mixed_lengths"]

Lengths = list[tuple[int, int]]  # tokens of prompt and output, for each request


def mixed_lengths(count: int, prompts: tuple[int, int], outputs: tuple[int, int], seed: int = 0) -> Lengths:
    """Lengths between the given ones, both included; the same for the same seed."""
    rng = random.Random(seed)
    return [(rng.randint(*prompts), rng.randint(*outputs)) for _ in range(count)]


def measure(own: Child, peer: Child, lengths: Lengths, rounds: int, *, unified: bool = True) -> list[str]:
    """A row of the table: medians of both, and the ratios."""
    seconds: dict[Child, list[float]] = {own: [], peer: []}
    settings = {own: {}, peer: {"unified": unified}}
    for number in range(rounds):
        for child in (own, peer)[:: 1 - 2 * (number % 2)]:
            time.sleep(PAUSE)
            seconds[child].append(child.ask("serve", lengths=lengths, **settings[child]) / 1e9)
        print(f"  {len(lengths)} requests: {seconds[peer][-1] / seconds[own][-1]:.2f}", file=sys.stderr, flush=True)
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    output = sum(length for _, length in lengths)
    rates = [f"{output / statistics.median(taken):.1f}" for taken in seconds.values()]
    name = f"{len(lengths)} requests, {sum(length for length, _ in lengths)} tokens in and {output} out"
    return [name, *rates, *(f"{x:.2f}" for x in (min(ratios), statistics.median(ratios), max(ratios)))]


def pair(text: str) -> tuple[int, int]:
    """``16-128`` as two numbers."""
    low, _, high = text.partition("-")
    return int(low), int(high)


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.throughput", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="+", metavar="MODEL", help="GGUF file, or SHAPE:TYPE as bench.models makes it")
    parser.add_argument("--requests", default="8,32", metavar="N,...", help="at once (default %(default)s)")
    parser.add_argument("--prompts", type=pair, default=(32, 512), metavar="A-B", help="tokens (default 32-512)")
    parser.add_argument("--outputs", type=pair, default=(16, 128), metavar="A-B", help="tokens (default 16-128)")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="(default %(default)s)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of each engine (default: physical cores)")
    parser.add_argument(
        "--split-cache", action="store_true", help="llama.cpp: a part of the cache for each sequence (kv_unified off)"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has llama_cpp (default: this)"
    )
    args = parser.parse_args()
    from densecore.kernels import threads

    num_threads = args.threads or threads.default_thread_count()
    for text in args.model:
        path = model_path(text, default_folder())
        rows = _rows(path, num_threads, args)
        head = ["", "DenseCore, t/s out", "llama.cpp, t/s out", "ratio, min", "median", "max"]
        print(f"\n### {path.stem}\n\n{markdown_table(head, rows)}", flush=True)


def _rows(path: Path, num_threads: int, args: argparse.Namespace) -> list[list[str]]:
    command = [path, num_threads]
    with Child([sys.executable, "-m", OWN, *command]) as own, Child([args.peer_python, PEER, *command]) as peer:
        rows = []
        for count in map(int, args.requests.split(",")):
            lengths = mixed_lengths(count, args.prompts, args.outputs)
            own.ask("serve", lengths=lengths)  # steps are recorded, kernels are compiled
            peer.ask("serve", lengths=[(32, 4)] * count)  # weights are in memory
            rows.append(measure(own, peer, lengths, args.rounds, unified=not args.split_cache))
        return rows


if __name__ == "__main__":
    main()
