"""Embeddings of many short texts: DenseCore, sentence-transformers on torch, and llama.cpp in turn.

::

    python -m bench.embedding all-minilm-l6-v2-f16.gguf \\
        --checkpoint FOLDER --reference-python PATH --peer-python PATH

The GGUF file and the checkpoint hold the same weights. All engines use the same threads, and take the texts as they
are: tokenizing counts. Each lives in a process of its own and sleeps while another one computes; ratios are taken
within a round, and their median is told. The vectors are compared, too.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from bench.children import Child
from densecore.benchmark import markdown_table

__all__ = ["measure", "short_texts"]

SCRIPT = ("-P", Path(__file__).with_name("embedding_engines.py"))  # -P: our kernels.py is nobody else's package
OWN, REFERENCE, PEER = "densecore", "sentence-transformers", "llama.cpp"
PAUSE = 0.5  # seconds between measurements: threads of the engine before fall asleep
WORDS = """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother
    area money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city community name president team minute idea kid body information
    back parent face others level office door health person art war history party result change morning reason
    research girl guy moment air teacher force education
"""


def short_texts(count: int, words: tuple[int, int] = (6, 20), seed: int = 0) -> list[str]:
    """Texts of so many words; the same for the same seed."""
    rng, words_known = random.Random(seed), WORDS.split()
    return [" ".join(rng.choices(words_known, k=rng.randint(*words))) for _ in range(count)]


def measure(children: Mapping[str, Child], texts: Sequence[str], rounds: int) -> dict[str, list[float]]:
    """Seconds of each engine in each round; one before the first is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in children}
    for number in range(rounds + 1):
        for name, child in children.items():
            taken = child.ask("embed", texts=list(texts), path=None)
            time.sleep(PAUSE)
            if number:
                seconds[name].append(taken)
    return seconds


def least_cosines(children: Mapping[str, Child], texts: Sequence[str]) -> dict[str, float]:
    """Of each engine's vectors, the smallest cosine with DenseCore's."""
    with tempfile.TemporaryDirectory() as folder:
        vectors = {}
        for number, (name, child) in enumerate(children.items()):
            path = Path(folder, f"{number}.npy")
            child.ask("embed", texts=list(texts), path=str(path))
            vectors[name] = np.load(path).astype(np.float64)
    return {name: float((rows * vectors[OWN]).sum(1).min()) for name, rows in vectors.items()}


def _table(names: Mapping[str, str], seconds: Mapping[str, list[float]], cosines: Mapping[str, float], count: int):
    rows = []
    for name, taken in seconds.items():
        ratio = statistics.median(theirs / ours for theirs, ours in zip(taken, seconds[OWN], strict=True))
        middle = statistics.median(taken)
        rows.append([names[name], f"{middle:.3f}", f"{count / middle:.0f}", f"{ratio:.2f}", f"{cosines[name]:.6f}"])
    return markdown_table(["engine", "seconds", "texts/s", "times DenseCore's", "least cosine with DenseCore"], rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.embedding", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a GGUF file of an encoder")
    parser.add_argument("--checkpoint", help="folder of the same model for sentence-transformers")
    parser.add_argument("--reference-python", help="a Python with sentence-transformers")
    parser.add_argument("--peer-python", help="a Python with llama-cpp-python")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    commands = {OWN: [sys.executable, *SCRIPT, OWN, args.model]}
    if args.reference_python:
        commands[REFERENCE] = [args.reference_python, *SCRIPT, REFERENCE, args.checkpoint]
    if args.peer_python:
        commands[PEER] = [args.peer_python, *SCRIPT, PEER, args.model]
    texts = short_texts(args.texts)
    with contextlib.ExitStack() as stack:
        children = {
            name: stack.enter_context(Child([*command, str(args.threads)])) for name, command in commands.items()
        }
        seconds, cosines = measure(children, texts, args.rounds), least_cosines(children, texts)
        names = {name: child.head["name"] for name, child in children.items()}
    print(_table(names, seconds, cosines, len(texts)))


if __name__ == "__main__":
    main()
