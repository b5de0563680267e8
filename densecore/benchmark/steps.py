"""Times steps of a model as the engine runs them, on the kernel thread with its pinned workers, and nothing else."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator

import numpy as np

from densecore.config import EngineConfig
from densecore.engine.kernel_thread import kernel_thread
from densecore.engine.workers import WorkerThreads
from densecore.gguf import GGUFFile
from densecore.models import Batch, KVCache, load_model, slots

__all__ = ["StepTimer", "TimedSequences"]


class StepTimer:
    """A model whose steps are timed, with random tokens.

    Attributes
    ----------
    file, model : as loaded; `close` lets go of the file.
    config : settings of the engine whose steps these would be.
    """

    def __init__(self, path: str | os.PathLike[str], config: EngineConfig | None = None, *, seed: int = 0) -> None:
        self.config = config or EngineConfig()
        self.file = GGUFFile.open(path)
        self.model = load_model(self.file)
        self.workers = WorkerThreads(self.config)
        self.random = np.random.default_rng(seed)

    @property
    def num_threads(self) -> int:
        """Threads that compute."""
        return kernel_thread.call(self.workers.apply)

    def set_threads(self, num_threads: int) -> None:
        """Compute with this many threads from now on; 0 takes the default."""
        self.workers = WorkerThreads(dataclasses.replace(self.config, threads=num_threads))

    def sequences(self, num_sequences: int = 1, depth: int = 0, room: int = 512) -> TimedSequences:
        """Sequences that hold `depth` tokens each, with space for `room` more."""
        return TimedSequences(self, num_sequences, depth, room)

    def logits(self, token_ids: np.ndarray) -> np.ndarray:
        """Logits (num_tokens, n_vocab) of every position of a prompt; its tokens go into one batch."""
        block_size = self.config.block_size
        num_blocks = -(-token_ids.size // block_size)
        cache = KVCache(self.model.config, num_blocks, block_size, self.config.kv_cache_dtype)
        batch = Batch.contiguous(token_ids, 0, num_blocks, block_size)
        return kernel_thread.call(lambda: self.model.forward(batch, cache, self.workers.apply()).copy())

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def __enter__(self) -> StepTimer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class TimedSequences:
    """Sequences of equal length in a KV cache of their own.

    Each measurement begins with `depth` tokens in each sequence and computes `num_tokens` more, which the next
    measurement overwrites. Times are nanoseconds.
    """

    def __init__(self, timer: StepTimer, num_sequences: int, depth: int, room: int) -> None:
        self.timer, self.num_sequences, self.depth, self.room = timer, num_sequences, depth, room
        config = timer.config
        blocks = -(-(depth + room) // config.block_size)
        self.cache = KVCache(timer.model.config, num_sequences * blocks, config.block_size, config.kv_cache_dtype)
        self.tables = np.arange(num_sequences * blocks, dtype=np.int32).reshape(num_sequences, blocks)
        if depth:
            self._time(batch for s in range(num_sequences) for batch in self._chunks(s, 0, depth))

    def prefill(self, num_tokens: int) -> int:
        """Time of a prompt of `num_tokens` in the first sequence, in chunks as the engine cuts it."""
        return self._time(self._chunks(0, self.depth, num_tokens))

    def decode(self, num_tokens: int) -> int:
        """Time of `num_tokens` steps, each of one token of every sequence."""
        return self._time(self._steps(num_tokens))

    def _time(self, batches: Iterator[Batch]) -> int:
        """Nanoseconds from the first to the last batch; the making of them counts, as it does in the engine."""
        timer = self.timer

        def run() -> int:
            timer.workers.apply()
            start = time.perf_counter_ns()
            for batch in batches:
                timer.model.forward(batch, self.cache, timer.workers.apply())
            return time.perf_counter_ns() - start

        return kernel_thread.call(run)

    def _chunks(self, sequence: int, first: int, num_tokens: int) -> Iterator[Batch]:
        """`num_tokens` of one sequence from position `first`; logits are wanted of the last of each chunk."""
        longest = self.timer.config.max_num_batched_tokens
        for start in range(first, first + num_tokens, longest):
            positions = np.arange(start, min(start + longest, first + num_tokens), dtype=np.int32)
            yield self._batch(np.full(positions.size, sequence, np.int32), positions, positions[-1:] - start)

    def _steps(self, num_tokens: int) -> Iterator[Batch]:
        every = np.arange(self.num_sequences, dtype=np.int32)
        for position in range(self.depth, self.depth + num_tokens):
            yield self._batch(every, np.full(self.num_sequences, position, np.int32), every)

    def _batch(self, seq_index: np.ndarray, positions: np.ndarray, logits_indices: np.ndarray) -> Batch:
        ids = self.timer.random.integers(0, self.timer.model.config.n_vocab, positions.size, np.int32)
        slot_mapping = slots(self.tables, seq_index, positions, self.cache.block_size)
        return Batch(ids, positions, slot_mapping, seq_index, self.tables, logits_indices)
