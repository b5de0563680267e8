"""DenseCore as a child process that answers measurements: see `bench.compare` and `bench.throughput`."""

from __future__ import annotations

import json
import random
import sys
import time

import numpy as np

import densecore
from bench.serving import Request, prompt
from densecore import DenseCore
from densecore.benchmark import StepTimer, TimedSequences
from densecore.config import EngineConfig
from densecore.kernels import simd


class Own:
    """A model in DenseCore, with one cache for each number of sequences and depth that is measured, and engines."""

    def __init__(self, path: str, num_threads: int) -> None:
        self.timer = StepTimer(path, EngineConfig(threads=num_threads))
        self.path, self.num_threads = path, num_threads
        self.sequences: dict[tuple[int, int], TimedSequences] = {}
        self.engines: dict[int, DenseCore] = {}  # number of requests -> engine that serves them
        self.random = random.Random(0)

    def prefill(self, num_tokens: int, depth: int = 0, room: int = 0) -> int:
        """Nanoseconds for a prompt; logits of its last token."""
        return self._sequences(1, depth, max(room, num_tokens)).prefill(num_tokens)

    def decode(self, num_tokens: int, depth: int = 0, num_sequences: int = 1, room: int = 0) -> int:
        """Nanoseconds for `num_tokens` steps, each of one token of every sequence."""
        return self._sequences(num_sequences, depth, max(room, num_tokens)).decode(num_tokens)

    def serve(self, lengths: list[tuple[int, int]]) -> int:
        """Nanoseconds until requests of these lengths, prompt and output, that come at once are answered greedily."""
        if len(lengths) not in self.engines:
            self.engines[len(lengths)] = self._new_engine(lengths)
        model = self.engines[len(lengths)]
        prompts = [prompt(model, length, self.random) for length, _ in lengths]
        start = time.perf_counter_ns()
        requests = [Request(model, ids, output) for ids, (_, output) in zip(prompts, lengths, strict=True)]
        for request in requests:
            request.wait()
        return time.perf_counter_ns() - start

    def _new_engine(self, lengths: list[tuple[int, int]]) -> DenseCore:
        """An engine with room for as many requests of such lengths, whose kernels are compiled."""
        longest = -(-max(map(sum, lengths)) // 256) * 256
        model = DenseCore(self.path, self.num_threads, max_model_len=longest, max_num_seqs=len(lengths))
        Request(model, prompt(model, longest - 20, self.random), 10).wait()
        return model

    def logits(self, token_ids: list[int], path: str) -> None:
        """Save the logits (num_tokens, n_vocab) of a prompt as a numpy file."""
        np.save(path, self.timer.logits(np.array(token_ids, np.int32)))

    def _sequences(self, num_sequences: int, depth: int, room: int) -> TimedSequences:
        key = num_sequences, depth
        if key not in self.sequences:
            self.sequences[key] = self.timer.sequences(num_sequences, depth, room)
        return self.sequences[key]


def main() -> None:
    """Answer requests, one JSON object a line: {"call": name, ...arguments}."""
    own = Own(sys.argv[1], int(sys.argv[2]))
    head = {"name": "DenseCore", "version": densecore.__version__, "features": simd.ISA}
    print(json.dumps(head | {"n_vocab": own.timer.model.config.n_vocab}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(own, request.pop("call"))(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
