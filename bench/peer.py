"""llama.cpp as a child process that answers measurements: see `bench.compare` and `bench.throughput`.

Runs with llama-cpp-python and numpy alone, so that it may live in an environment of its own.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import llama_cpp
import numpy as np

MAX_BATCH = 512  # tokens in one call, as DenseCore's default


class Request:
    """One of many: the tokens to be computed next, from `position` on, and how many of the output are left."""

    def __init__(self, tokens: np.ndarray, left: int) -> None:
        self.tokens, self.left, self.position = tokens, left, 0


class Peer:
    """A model in llama.cpp, with one context for each number of sequences and depth that is measured."""

    def __init__(self, path: str, num_threads: int) -> None:
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {path}")
        self.num_threads = num_threads
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(MAX_BATCH, 0, 1)
        self.contexts: dict[tuple[int, int], Any] = {}
        self.random = np.random.default_rng(0)

    def prefill(self, num_tokens: int, depth: int = 0, room: int = 0) -> int:
        """Nanoseconds for a prompt; logits of its last token."""
        context = self._context(1, depth, max(room, num_tokens))
        return self._timed(lambda: self._feed(context, 0, depth, num_tokens))

    def decode(self, num_tokens: int, depth: int = 0, num_sequences: int = 1, room: int = 0) -> int:
        """Nanoseconds for `num_tokens` steps, each of one token of every sequence."""
        context = self._context(num_sequences, depth, max(room, num_tokens))

        def steps() -> None:
            sequences = np.arange(num_sequences)
            for position in range(depth, depth + num_tokens):
                positions, wanted = np.full(num_sequences, position), np.ones(num_sequences, bool)
                self._decode(context, self._tokens(num_sequences), positions, sequences, wanted)

        return self._timed(steps)

    def logits(self, token_ids: list[int], path: str) -> None:
        """Save the logits (num_tokens, n_vocab) of a prompt as a numpy file."""
        n, context = len(token_ids), self._context(1, 0, MAX_BATCH)
        self._decode(context, np.array(token_ids), np.arange(n), np.zeros(n, int), np.ones(n, bool))
        rows = (llama_cpp.llama_get_logits_ith(context, i) for i in range(n))
        np.save(path, np.stack([np.ctypeslib.as_array(row, (self.n_vocab,)) for row in rows]))

    def serve(self, lengths: list[tuple[int, int]], unified: bool = True) -> int:
        """Nanoseconds until requests of these lengths, prompt and output, that come all at once are answered, greedily.

        Continuous batching: a call takes the newest token of each sequence that decodes, then prompts in their order.
        """
        context = self._new_context(len(lengths), max(map(sum, lengths)), unified)
        requests = [Request(self._tokens(prompt), output) for prompt, output in lengths]
        nanoseconds = self._timed(lambda: self._serve(context, requests))
        llama_cpp.llama_free(context)
        return nanoseconds

    def _serve(self, context: Any, requests: list[Request]) -> None:
        memory = llama_cpp.llama_get_memory(context)
        while any(request.left for request in requests):
            room, parts = MAX_BATCH, []
            for number, request in sorted(enumerate(requests), key=lambda pair: len(pair[1].tokens) > 1):
                count = min(len(request.tokens), room) if request.left else 0
                room -= count
                if count:
                    parts.append((number, request, count))
            self._decode(
                context,
                np.concatenate([request.tokens[:count] for _, request, count in parts]),
                np.concatenate([request.position + np.arange(count) for _, request, count in parts]),
                np.repeat([number for number, _, _ in parts], [count for _, _, count in parts]),
                np.concatenate([np.arange(count) == len(request.tokens) - 1 for _, request, count in parts]),
            )
            end = 0
            for number, request, count in parts:
                end += count
                request.position += count
                request.tokens = request.tokens[count:]
                if not len(request.tokens):
                    row = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, end - 1), (self.n_vocab,))
                    request.tokens = np.array([row.argmax()])
                    request.left -= 1
                    if not request.left:
                        llama_cpp.llama_memory_seq_rm(memory, number, -1, -1)

    def _context(self, num_sequences: int, depth: int, room: int) -> Any:
        """The context of sequences with `depth` tokens; made and filled at the first use."""
        key = num_sequences, depth
        if key not in self.contexts:
            self.contexts[key] = context = self._new_context(num_sequences, depth + room)
            for sequence in range(num_sequences if depth else 0):
                self._feed(context, sequence, 0, depth)
        memory = llama_cpp.llama_get_memory(self.contexts[key])
        for sequence in range(num_sequences):
            llama_cpp.llama_memory_seq_rm(memory, sequence, depth, -1)
        return self.contexts[key]

    def _new_context(self, num_sequences: int, length: int, unified: bool = False) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = num_sequences * -(-length // 256) * 256
        params.n_batch = params.n_ubatch = MAX_BATCH
        params.n_seq_max = num_sequences
        params.n_threads = params.n_threads_batch = self.num_threads
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.type_k = params.type_v = llama_cpp.GGML_TYPE_F16
        params.kv_unified = unified  # else each sequence attends to its own cells alone
        params.no_perf = True
        context = llama_cpp.llama_init_from_model(self.model, params)
        if not context:
            raise SystemExit(f"llama.cpp cannot make a context of {params.n_ctx} tokens")
        return context

    def _feed(self, context: Any, sequence: int, first: int, num_tokens: int) -> None:
        for start in range(first, first + num_tokens, MAX_BATCH):
            n = min(MAX_BATCH, first + num_tokens - start)
            positions = np.arange(start, start + n)
            self._decode(context, self._tokens(n), positions, np.full(n, sequence), positions == positions[-1])

    def _tokens(self, n: int) -> np.ndarray:
        return self.random.integers(0, self.n_vocab, n)

    def _decode(
        self, context: Any, tokens: np.ndarray, positions: np.ndarray, sequences: np.ndarray, wanted: np.ndarray
    ) -> None:
        """One call; logits of the tokens for which `wanted` is true."""
        n, batch = tokens.size, self.batch
        np.ctypeslib.as_array(batch.token, (MAX_BATCH,))[:n] = tokens
        np.ctypeslib.as_array(batch.pos, (MAX_BATCH,))[:n] = positions
        np.ctypeslib.as_array(batch.n_seq_id, (MAX_BATCH,))[:n] = 1
        np.ctypeslib.as_array(ctypes.cast(batch.logits, ctypes.POINTER(ctypes.c_int8)), (MAX_BATCH,))[:n] = wanted
        for i, sequence in enumerate(sequences.tolist()):
            batch.seq_id[i][0] = sequence
        batch.n_tokens = n
        if llama_cpp.llama_decode(context, batch):
            raise SystemExit(f"llama_decode failed with {n} tokens")
        llama_cpp.llama_synchronize(context)

    @staticmethod
    def _timed(work: Callable[[], None]) -> int:
        start = time.perf_counter_ns()
        work()
        return time.perf_counter_ns() - start


def main() -> None:
    """Answer requests, one JSON object a line: {"call": name, ...arguments}."""
    peer = Peer(sys.argv[1], int(sys.argv[2]))
    features = llama_cpp.llama_print_system_info().decode()
    print(json.dumps({"name": "llama.cpp", "version": llama_cpp.__version__, "features": features}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(peer, request.pop("call"))(**request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
