"""Engines that embed texts, as child processes that answer measurements: see `bench.embedding`.

Runs as a script with numpy and one engine's library, so that each may live in an environment of its own.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np

Embed = Callable[[Sequence[str]], np.ndarray]


def densecore(path: str, num_threads: int) -> tuple[str, Embed]:
    import densecore

    model = densecore.DenseCore(path, threads=num_threads)
    return f"DenseCore {densecore.__version__}", lambda texts: model.embed_batch(texts, "model")


def sentence_transformers(path: str, num_threads: int) -> tuple[str, Embed]:
    import sentence_transformers
    import torch

    torch.set_num_threads(num_threads)
    model = sentence_transformers.SentenceTransformer(path, device="cpu")
    name = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    return name, lambda texts: model.encode(list(texts), normalize_embeddings=True)


def llama_cpp(path: str, num_threads: int) -> tuple[str, Embed]:
    import llama_cpp

    model = llama_cpp.Llama(
        path, embedding=True, n_ctx=512, n_batch=512, n_ubatch=512, n_threads=num_threads,
        n_threads_batch=num_threads, verbose=False,
    )  # fmt: skip
    return f"llama.cpp ({llama_cpp.__version__})", lambda texts: np.array(model.embed(list(texts), normalize=True))


ENGINES = {"densecore": densecore, "sentence-transformers": sentence_transformers, "llama.cpp": llama_cpp}


def main() -> None:
    """Answer requests, one JSON object a line: {"call": "embed", "texts": [...], "path": where vectors go, or null}."""
    engine, path, num_threads = sys.argv[1:]
    name, embed = ENGINES[engine](path, int(num_threads))
    print(json.dumps({"name": name}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        start = time.perf_counter()
        vectors = embed(request["texts"])
        seconds = time.perf_counter() - start
        if request["path"]:
            np.save(request["path"], vectors)
        print(json.dumps(seconds), flush=True)


if __name__ == "__main__":
    main()
